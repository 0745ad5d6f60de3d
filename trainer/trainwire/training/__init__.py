"""The training loop, its setup, steps, requests and end. May use `hooks`, `model`, `data` and the bus."""
