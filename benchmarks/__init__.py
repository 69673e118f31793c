"""Measurements, each printed as a ratio within one run: machines differ, and so does one machine by the hour."""
