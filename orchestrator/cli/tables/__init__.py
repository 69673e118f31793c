"""What the commands show on a terminal: tables and a progress bar."""
