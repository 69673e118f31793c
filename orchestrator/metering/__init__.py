"""What batches used, told from their records: events, prices, bills, and signatures of reports."""
