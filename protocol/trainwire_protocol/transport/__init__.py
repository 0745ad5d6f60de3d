"""The sockets of both ends: server, requests, live feed, authentication. May use `journal` and what is below it."""
