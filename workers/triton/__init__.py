"""Triton as the stages see it: client, shared memory, models, tensors; and waiting for a server."""
