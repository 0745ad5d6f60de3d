"""The reader's end: subscriptions, history, targets, commands. It may use every other room of the protocol."""
