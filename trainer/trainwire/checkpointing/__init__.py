"""Checkpoints: what they contain, and how they are written and read. Uses the training, hooks and the bus."""
