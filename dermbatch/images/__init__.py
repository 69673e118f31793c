"""Untrusted image files: what they are, their pixels as displayed, and masks over them."""
