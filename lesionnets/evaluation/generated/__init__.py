"""Pictures that networks generated: made, marked and compared with originals."""
