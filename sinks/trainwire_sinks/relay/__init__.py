"""`trainwire relay`: copies runs into run folders of its own and serves them; may use `runtime` and `text`."""
