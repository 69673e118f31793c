"""Supports: pictures of a disease with outlined lesions, which are shown to one-shot segment models."""
