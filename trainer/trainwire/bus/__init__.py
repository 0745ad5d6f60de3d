"""The event bus: from `log` to the journal and the socket. May use `values` and the protocol; needs no torch."""
