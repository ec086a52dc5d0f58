"""Best so far against simulated time: median and quartiles of each method, from the runs of ``search_quality.py``.

    python benchmarks/search_plots.py runs.jsonl benchmarks/plots/search_quality.png [--methods tpe bayesian …]

Needs matplotlib. Only problems that every method shown has run on count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from search_quality import FLOOR, GRID, read


def plot(runs: Path, out: Path, methods: list[str] | None) -> None:
    """Draw one panel: regret over the share of the budget that is spent."""
    known = read(runs)
    methods = methods or list(known)
    shared = set.intersection(*(set(known[method]) for method in methods))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    time = np.arange(1, GRID + 1)
    for method in methods:
        curves = np.maximum([known[method][key]["curve"] for key in shared], FLOOR)
        low, middle, high = np.quantile(np.minimum(curves, 10.0), [0.25, 0.5, 0.75], axis=0)
        [line] = axes.plot(time, middle, label=method)
        axes.fill_between(time, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(yscale="log", xlim=(2, GRID), ylim=(FLOOR, 1.0), xlabel="simulated time, % of the budget")
    axes.set_ylabel("normalised regret of the best so far")
    axes.set_title(f"LCBench, 4 workers, 50 full trainings: median and quartiles of {len(shared)} runs", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", nargs="+", help="which of those in the file, all if not given")
    options = parser.parse_args()
    plot(options.runs, options.out, options.methods)


if __name__ == "__main__":
    main()
