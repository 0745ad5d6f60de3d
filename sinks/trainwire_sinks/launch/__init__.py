"""Starts a script with sinks beside it, and forwards signals to processes; may use `runtime` and `text`."""
