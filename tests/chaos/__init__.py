"""Seeded random faults in a trainer, its sinks and their connection, and checks that nothing was lost or duplicated.

    PYTHONPATH=tests python -m chaos --rounds 300 --seed 1

Each round trains a small run with five sinks, one of them over TCP through a proxy, and kills, stops and disconnects
processes at random. A trainer that was killed or has finished is resumed from its checkpoint, from that of an earlier
start, or started anew, and attempts are added to the run. At the end every sink's output must contain what the journal
contains, once and in order, and equal a replay byte for byte; what was superseded must be kept aside and be shown by
`--attempt`. A failing round prints its seed.
"""
