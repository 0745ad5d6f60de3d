"""`trainwire relay`: copies runs into run folders of its own and serves them; uses `runtime`."""
