"""The plugins, one module each, which use the rooms `bus`, `training` and `checkpointing`, and not each other."""
