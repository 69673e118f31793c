"""What people decide about running batches, and what the object store makes known to Redis."""
