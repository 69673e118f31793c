"""Plans batches, feeds the queue, repairs, reports; holds the command line and the local stack."""
