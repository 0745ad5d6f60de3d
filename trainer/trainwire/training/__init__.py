"""The training loop, and the model, data, optimizer and state that it works with. Uses the bus and the hooks."""
