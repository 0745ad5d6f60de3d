"""Stores batches in NATS JetStream, and reads runs from there; may use `runtime` and `text`."""
