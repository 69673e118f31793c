"""The networks, one file each; every file can be read by itself."""
