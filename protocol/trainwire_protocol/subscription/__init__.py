"""The reader's end: subscriptions, history, targets, commands. Uses every other room of the protocol."""
