"""What is trained: model, modes, parameters, optimizer, precision, loss. May use `hooks` and `options`."""
