"""Similar cases: an index of embeddings beside the results, local patterns, and the answers they give together."""
