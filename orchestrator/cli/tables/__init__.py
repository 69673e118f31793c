"""What the commands show at a terminal: tables and a bar of progress."""
