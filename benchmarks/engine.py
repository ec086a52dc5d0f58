"""The engine beside its floors and its peers, in one run: python benchmarks/engine.py [--quick]

Every figure is the least of several rounds, wall and CPU time apart: the machine may have other work.
Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import stages
import starts
import strategies
import trials
from measure import Row, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small counts: whether it runs, not how fast")
    parser.add_argument("--only", choices=("stages", "trials", "strategies", "starts"), help="one part of the table")
    given = parser.parse_args()
    began = time.perf_counter()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        parts: dict[str, Callable[[], list[Row]]] = {
            "stages": lambda: stages.rows(place, given.quick),
            "trials": lambda: trials.rows(place, given.quick),
            "strategies": lambda: strategies.rows(given.quick),
            "starts": lambda: starts.rows(given.quick),
        }
        for part, measure in parts.items():
            if given.only in (None, part):
                print(f"{part} …", file=sys.stderr)
                rows += measure()
    print(table(rows))
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    print(f"\n{python}, {os.cpu_count()} CPUs, load {load}, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
