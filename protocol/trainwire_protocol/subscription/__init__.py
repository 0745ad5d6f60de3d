"""The reader's end: subscriptions, history, targets, commands. May use every other room of the protocol."""
