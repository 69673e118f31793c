"""Similar cases: commands that look for them, and that maintain the indexes."""
