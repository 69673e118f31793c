"""The four stages: plain functions of (image, Triton client, parameters)."""
