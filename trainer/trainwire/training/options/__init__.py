"""The options of a training, and what replaces those of other trainers. May use `training.savable` and the bus."""
