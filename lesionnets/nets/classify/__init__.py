"""Networks from a lesion to its diagnosis."""
