"""Checkpoints: what they contain, and how they are written and read. May use `training`, its hooks, and `bus`."""
