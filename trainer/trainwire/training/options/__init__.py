"""The options of a training, also in a file, and the names of plugins. May use `training.hooks`, `training.savable` and
the bus."""
