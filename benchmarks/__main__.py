"""Run the benchmarks: python -m benchmarks [--quick] [--write docs/performance.md] [NAME …]"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path

from benchmarks import faults, gpu, hot_path, interpreter_lock, limits, peers, reading, sinks, throughput
from benchmarks.report import describe_machine, table, write_section
from benchmarks.result import Benchmark, Result, Size

BENCHMARKS: tuple[Benchmark, ...] = (
    hot_path.log_ten_floats,
    hot_path.instructions_of_log,
    hot_path.step_with_ten_scalars,
    hot_path.longer_step_with_ten_scalars,
    faults.step_while_something_fails,
    gpu.gpu_step,
    throughput.idle_bus,
    throughput.recorded_to_handled,
    throughput.publisher_to_sink,
    throughput.late_sink,
    sinks.tensorboard_sink,
    sinks.file_sinks,
    reading.export_and_verify,
    interpreter_lock.interpreter_lock,
    limits.limits,
    peers.peers,
)


def run(benchmarks: list[Benchmark], size: Size) -> Iterator[Result]:
    """Run them one after another, and say what comes out as it comes."""
    for benchmark in benchmarks:
        print(f"{benchmark.__name__}: {(inspect.getdoc(benchmark) or '').splitlines()[0]}", flush=True)
        for result in benchmark(size):
            print(f"    {result.name}: {result.measured}   {result.verdict}", flush=True)
            yield result


def main() -> None:
    """Parse the command line, measure, and tell."""
    known = {benchmark.__name__: benchmark for benchmark in BENCHMARKS}
    parser = argparse.ArgumentParser(description=__doc__, usage="python -m benchmarks [options] [NAME ...]")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all if none is named: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="measure little: shows that the benchmarks work")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave one out")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this Markdown file")
    arguments = parser.parse_args()
    if unknown := {*arguments.names, *arguments.without} - set(known):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in arguments.names or known if name not in arguments.without]
    results = list(run(chosen, Size(arguments.quick)))
    print("\n" + table(results))
    if arguments.write:
        write_section(arguments.write, "budgets", f"{describe_machine()}\n\n{table(results)}")


if __name__ == "__main__":
    main()
