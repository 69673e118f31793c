"""Models: the tensors that each stage's model takes and returns, where models lie, and keys of their output."""
