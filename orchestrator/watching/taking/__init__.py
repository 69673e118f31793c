"""Taking in: from objects that are ready to batches that grow."""
