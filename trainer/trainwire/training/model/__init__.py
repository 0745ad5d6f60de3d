"""What is trained: model, modes, parameters, optimizer, loss. May use `hooks`, `options` and `distributed`."""
