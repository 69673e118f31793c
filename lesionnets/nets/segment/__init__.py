"""Networks that find the lesion of an image."""
