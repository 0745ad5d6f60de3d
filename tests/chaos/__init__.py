"""Seeded random faults over a trainer, its sinks and their connection, and the proof that nothing came of them.

    PYTHONPATH=tests python -m chaos --rounds 300 --seed 1

Each round trains a toy run with five sinks beside it, one of them over TCP through a proxy, and kills, stops and cuts
at random. A killed trainer is resumed from its checkpoint, or begins again. At the end every sink's output has to hold
what the journal holds, once and in order, and the bytes of a replay from zero. A failing round names its seed.
"""
