"""Similar cases: what asks for them, and what looks after the indexes."""
