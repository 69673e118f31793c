"""Networks of super-resolution."""
