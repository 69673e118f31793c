"""Groups of commands of ``lesionnets``."""
