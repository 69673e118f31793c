"""Networks that diagnose a lesion."""
