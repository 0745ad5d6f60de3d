"""`trainwire relay`: copies runs from elsewhere into run folders of its own, and serves them on.

`sources` finds what there is to copy, `following` reads it, `copy` keeps it on disk, by `writing`, `serving` publishes
what is kept, `places` says at which endpoints, and `relay` holds all of that together.
"""
