"""News of new objects: notifications and listings."""
