"""The training loop and what it consists of. Uses the bus and the hooks."""
