"""Files of strangers read in processes of their own, within limits of memory and time (docs/decisions/0033)."""
