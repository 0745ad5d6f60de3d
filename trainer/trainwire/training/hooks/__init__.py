"""Hooks: what plugins are, how they are called, and with what. Uses the bus."""
