"""The command line: `python -m chaos`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from chaos.processes import make_context
from chaos.rounds import Report, RoundFailedError, play_round


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description="Disturb runs and check that nothing is lost.")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="seed of the first round; later rounds count up")
    arguments = parser.parse_args()
    context, folder, total = make_context(), Path(tempfile.mkdtemp(prefix="chaos-")), Report()
    failed = []
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        try:
            total.add(play_round(context, folder, seed))
        except RoundFailedError as error:
            failed.append(seed)
            print(f"seed {seed} FAILED: {error}\n  see {folder / f'round-{seed}'}", flush=True)
        if total.rounds % 10 == 0:
            print(f"{total.rounds} rounds, {sum(total.faults.values())} faults, {total.events} events", flush=True)
    print_report(total, failed)
    return 1 if failed else 0


def print_report(total: Report, failed: list[int]) -> None:
    print(f"\nrounds {total.rounds}, attempts {total.attempts}, events {total.events}")
    for fault, count in sorted(total.faults.items()):
        print(f"  {fault:<32} {count:>5}")
    print(f"lost {total.lost}, duplicated {total.duplicated}, hidden {total.hidden}", end="")
    print(f", failed rounds {len(failed)} {failed or ''}")


if __name__ == "__main__":
    sys.exit(main())
