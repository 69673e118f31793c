"""Models: the tensors that each stage's takes and gives, where they lie, and the keys of what they make."""
