"""The API ``/v1``: one module a noun."""
