"""Image files of strangers: what they are, their pixels as displayed, and masks over them."""
