"""Learning from review: what people are to read."""
