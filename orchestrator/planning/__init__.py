"""From inputs to a manifest: what was asked, read and written once."""
