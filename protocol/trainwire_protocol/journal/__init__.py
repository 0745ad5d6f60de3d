"""The journal on disk: records, segments, attempts and run folders. May use `wire` and what is below it; no sockets."""
