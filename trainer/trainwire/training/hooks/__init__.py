"""Hooks: the payloads, how functions are bound to hooks, and what hooks need of a plugin. Uses only the bus."""
