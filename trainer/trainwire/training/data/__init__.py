"""What is trained on: splits, loaders, batches. May use `hooks`, `options` and `distributed`."""
