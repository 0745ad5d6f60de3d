"""Checkpoints: what they hold, and how they are written and read. Uses the training and what lies below it."""
