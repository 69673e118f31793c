"""How checkpoints are chosen during training, and how networks are calibrated afterwards."""
