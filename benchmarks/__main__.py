"""Run the benchmarks: python -m benchmarks [--quick] [--write docs/performance.md] [NAME …]"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import (
    export_and_verify,
    faults,
    gpu,
    hot_path,
    interpreter_lock,
    limits,
    peers,
    sinks,
    throughput,
)
from benchmarks.measurement import Size
from benchmarks.report import Result, describe_machine, table, write_section

Benchmark = Callable[[Size], Iterator[Result]]

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
    export_and_verify.export_and_verify,
    interpreter_lock.interpreter_lock,
    limits.limits,
    peers.peers,
)


def run(benchmarks: list[Benchmark], size: Size) -> Iterator[Result]:
    """Run the benchmarks one after another, and print each result as soon as it is known."""
    for benchmark in benchmarks:
        print(f"{benchmark.__name__}: {(inspect.getdoc(benchmark) or '').splitlines()[0]}", flush=True)
        for result in benchmark(size):
            print(f"    {result.name}: {result.measured}   {result.verdict}", flush=True)
            yield result


def main() -> None:
    """Parse the command line, run the benchmarks, and print or write the table."""
    by_name = {benchmark.__name__: benchmark for benchmark in BENCHMARKS}
    names = ", ".join(by_name)
    parser = argparse.ArgumentParser(description=__doc__, usage="python -m benchmarks [options] [NAME ...]")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks to run (default: all): {names}")
    parser.add_argument("--quick", action="store_true", help="measure little, to show that the benchmarks work")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="skip a benchmark")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to this Markdown file")
    arguments = parser.parse_args()
    if unknown := {*arguments.names, *arguments.without} - set(by_name):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; the benchmarks are {names}")
    chosen = [by_name[name] for name in arguments.names or by_name if name not in arguments.without]
    results = list(run(chosen, Size(arguments.quick)))
    print("\n" + table(results))
    if arguments.write:
        write_section(arguments.write, "budgets", f"{describe_machine()}\n\n{table(results)}")


if __name__ == "__main__":
    main()
