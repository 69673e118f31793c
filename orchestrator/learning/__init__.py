"""Learning from review: which images are to be read next (docs/review.md)."""
