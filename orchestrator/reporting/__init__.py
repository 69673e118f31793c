"""What becomes of a batch: outcomes, table, report, comparison, status, fetch."""
