"""Where people correct results and agree on them: the API of decisions (docs/review.md)."""
