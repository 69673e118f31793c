"""Tenants: who they are, what each may ask for, and how much of it is used up."""
