"""Networks from an image to its lesion."""
