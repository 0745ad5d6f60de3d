"""Hooks: their payloads, the binding of functions to hooks, and the base class of plugins. May use `bus` only."""
