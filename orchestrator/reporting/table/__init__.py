"""The table of a batch: its columns, and the parts that it is written in while results come."""
