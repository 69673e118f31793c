"""Images/s beside what users would write themselves; see ``__main__.py``."""
