"""Batches as they are stored: their records, manifests, outcomes and summaries, read and written."""
