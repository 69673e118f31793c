"""Networks, one file each, readable alone."""
