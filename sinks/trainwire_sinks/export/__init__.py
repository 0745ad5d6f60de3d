"""Writes a run's events as one file, with a module for each format; may use `runtime` and `text`."""
