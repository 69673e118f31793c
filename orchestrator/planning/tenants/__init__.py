"""Tenants: who they are, what each may ask for, and what of it is used up."""
