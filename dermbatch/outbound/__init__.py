"""Requests to systems of others, with limits of time and length."""
