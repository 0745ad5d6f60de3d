"""Formats events as lines of text, for people and programs. Uses the protocol only."""
