"""The networks, one file each; every file can be read on its own."""
