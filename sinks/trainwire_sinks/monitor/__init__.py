"""`trainwire watch`: views of runs, their readers, and the terminal app; may use `inspect`, `runtime` and `text`."""
