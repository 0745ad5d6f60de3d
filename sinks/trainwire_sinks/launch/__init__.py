"""Starting a script with sinks beside it. Uses the text and runtime rooms."""
