"""Supports: pictures of a disease with their lesions drawn, which one-shot segment models are shown."""
