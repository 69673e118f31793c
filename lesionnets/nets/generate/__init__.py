"""Networks that make up pictures of lesions."""
