"""``python -m bench [topic ...] [--quick] [--threads 1,2] [--rounds 5] [--output folder]``."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

from bench.common import ROOT, CannotRunError, Settings

TOPICS = (
    "startup", "determinism", "factor", "update", "clip", "ldlq", "descent", "rotation", "memory",
    "quality", "quip", "kbest", "refine", "certificates", "obq", "prune", "hessian", "allocation",
    "model", "rivals", "device",
)  # fmt: skip
ON_REQUEST = ("device",)  # what most machines have not


def main() -> int:
    """Run topics; 1 where a limit was missed, 2 where a topic could not run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks; see README.")
    parser.add_argument("topics", nargs="*", metavar="topic", help=", ".join(TOPICS))
    parser.add_argument("--quick", action="store_true", help="small sizes: does the suite work?")
    parser.add_argument("--threads", default="1,2", help="thread counts, default 1,2")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, default 5")
    parser.add_argument(
        "--output", type=Path, help="default bench/results, with --quick build/bench-quick"
    )
    arguments = parser.parse_args()
    unknown = [t for t in arguments.topics if t not in TOPICS]
    if unknown:
        parser.error(f"unknown topic {', '.join(unknown)}; there are {', '.join(TOPICS)}")
    try:
        threads = tuple(int(t) for t in arguments.threads.split(","))
    except ValueError:
        parser.error(f"--threads takes whole numbers, as 1,2; got {arguments.threads}")
    if min(threads) < 1 or arguments.rounds < 1:
        parser.error("--threads and --rounds take numbers of at least 1")
    default = ROOT / ("build/bench-quick" if arguments.quick else "bench/results")
    settings = Settings(
        quick=arguments.quick,
        threads=threads,
        rounds=min(arguments.rounds, 3) if arguments.quick else arguments.rounds,
        output=arguments.output or default,
    )
    failed = missed = False
    for topic in arguments.topics or [t for t in TOPICS if t not in ON_REQUEST]:
        start = time.perf_counter()
        print(f"{topic} ...", flush=True)
        try:
            report = import_module(f"bench.{topic}").run(settings)
        except ModuleNotFoundError as error:
            if topic not in ("obq", "rivals"):
                raise
            print(f"{topic}: not run: {error}; install the bench extra")
            failed = True
            continue
        except CannotRunError as error:
            print(f"{topic}: not run: {error}", file=sys.stderr)
            failed = True
            continue
        report.write()
        missed |= bool(report.missed)
        print(f"{topic}: {time.perf_counter() - start:.0f} s\n", flush=True)
    return 2 if failed else int(missed and not settings.quick)


if __name__ == "__main__":
    sys.exit(main())
