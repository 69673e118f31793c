"""What people decide of results, and how far they agree (docs/review.md)."""
