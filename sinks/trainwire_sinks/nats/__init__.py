"""NATS JetStream as a store of batches, which the sink `nats` writes and every command can read; uses `runtime`."""
