"""Starting a script with sinks beside it, and forwarding signals to both. Uses `runtime` and `text`."""
