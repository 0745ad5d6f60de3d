"""The options of a training, and what replaces those of other trainers. May use `training.hooks`,
`training.savable` and the bus."""
