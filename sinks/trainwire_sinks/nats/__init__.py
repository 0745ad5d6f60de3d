"""NATS JetStream, a distributed log, as a place for batches: the sink `nats` writes there, and any command reads.

`address` is what a user types, `subjects` names what is stored, `connecting` speaks to servers, `publishing` writes,
`history` reads, by a consumer of `consuming`, and `target` makes the TARGET of a command.
"""
