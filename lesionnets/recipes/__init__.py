"""Training recipes: one readable script each, with ``train(options) -> Path`` of the best checkpoint."""
