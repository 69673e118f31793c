"""Commands about who owns batches, and what they used."""
