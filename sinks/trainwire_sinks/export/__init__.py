"""Writes a run's events as one file, with a module for each format. Uses the text room."""
