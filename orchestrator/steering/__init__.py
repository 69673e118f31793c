"""What people decide about batches while they run, and what the object store makes known to Redis."""
