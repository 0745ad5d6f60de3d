"""The event bus: from `log` to the journal and the socket. May use the protocol only, and does not import torch."""
