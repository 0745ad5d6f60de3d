"""The plugins, one module each. May use `checkpointing` and every room below it; plugins do not use each other."""
