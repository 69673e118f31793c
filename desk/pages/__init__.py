"""The pages: HTML from templates, and where their scripts and styles are served from."""
