"""The journal on disk: records, segments, attempts, run folders. Uses the wire and what lies below it; no sockets."""
