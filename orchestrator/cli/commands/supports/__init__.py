"""``dermbatch supports``."""
