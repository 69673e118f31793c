"""The service: feeds the queue, repairs, closes."""
