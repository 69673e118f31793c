"""Pictures that networks made up: made, marked, compared with originals."""
