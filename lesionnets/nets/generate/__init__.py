"""Networks that generate pictures of lesions."""
