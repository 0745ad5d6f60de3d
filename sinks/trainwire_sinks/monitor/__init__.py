"""`trainwire watch`: a view holds what is known of a run, a reader updates it, and a terminal app or lines show it.

Uses the rooms `inspect`, `runtime` and `text`.
"""
