"""Adapters for other frameworks, one module each. May use every room below it; nothing in the package imports them."""
