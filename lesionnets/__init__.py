"""The networks in PyTorch: architectures, losses, data, recipes, evaluation, and export to Triton."""
