"""The pages: HTML by templates, and what their scripts and styles are served from."""
