"""Who may ask: keys of programs."""
