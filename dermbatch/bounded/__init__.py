"""Untrusted files, read in separate processes within limits of memory and time (docs/decisions/0033)."""
