"""What batches used, according to their records: events, prices, bills, and signatures of reports."""
