"""Formats events as lines of text, for people and programs; uses no other room."""
