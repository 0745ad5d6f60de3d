"""The sockets of both ends: server, requests, live feed, authentication. Uses the journal and what lies below it."""
