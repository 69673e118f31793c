"""Where people correct results and agree: the API of decisions (docs/review.md)."""
