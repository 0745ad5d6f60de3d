"""The training loop, and the model, data, optimizer and state that it works with. May use `hooks` and `bus`."""
