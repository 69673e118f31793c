"""``dermbatch desk``: the way to the desk, and keys of programs."""
