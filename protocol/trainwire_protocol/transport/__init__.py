"""The sockets of both ends: server, requests, live feed, authentication. It may use the journal and the rooms below."""
