"""Seeded random faults in a trainer, its sinks and their connection, and checks that nothing was lost or duplicated.

    PYTHONPATH=tests python -m chaos --rounds 300 --seed 1

Each round trains a small run with five sinks, one of them over TCP through a proxy, and kills, stops and disconnects
processes at random. A killed trainer is resumed from its checkpoint or started from the beginning. At the end every
sink's output must contain what the journal contains, once and in order, and equal a replay byte for byte. A failing
round prints its seed.
"""
