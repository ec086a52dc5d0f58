"""Search quality on real learning curves: YAHPO Gym's LCBench surrogate, in simulated time.

    python benchmarks/search_quality.py --data DIR --out runs.jsonl [--methods tpe bayesian …] [--set check] [--seeds 0 1]
    python benchmarks/search_quality.py --out runs.jsonl            # the table alone
    python benchmarks/search_quality.py --data DIR --best           # looks for the best losses known anew

DIR is the surrogate's folder, see ``search_problem.py``. A run that ``runs.jsonl`` has already is passed over, so a
benchmark that was cut goes on where it stopped, and further methods are compared on the same problems.

Whole sweeps run as a user's would (`SweepExperiment` on a store in memory), on a `SimulatedExecutor` of four workers.
A trial costs its own training time, kept within a factor 3 of the mean; the budget is worth 50 full trainings. Regret is
(found - best known) / (median of random - best known), best so far at 25, 50 and 100% of the budget. What is
compared is ``corners`` too, which tries only corners and the middle of the box: a win that it shares is an artefact.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

os.environ["SWEEP_QUIET"] = "1"

from search_methods import METHODS  # quiet first
from search_problem import BEST, UNITS, Array, Problem, instances  # as above

from sweep import Context, SweepExperiment  # as above
from sweep.executors import SimulatedExecutor  # as above
from sweep.trial import Budget  # as above

WORKERS, TRAININGS, MARKS = 4, 50, (0.25, 0.5, 1.0)
GRID = 100  # a curve of best-so-far has so many points, at equal parts of the budget
FLOOR = 0.01  # regrets are compared by their logarithms from here up
DEVELOPED = ("168910", "189862", "167149", "189354", "167201", "167200", "168330", "168908")
SETS = {
    "dev": DEVELOPED,
    "check": ("126029", "168331", "189866", "189873", "189905", "34539", "3945", "7593", "146212", "126026"),
}
Runs = dict[str, dict[tuple[str, int], dict[str, Any]]]


class Run:
    """One sweep in simulated time.

    Args:
        problem: What is searched.
        method: Its name.
        seed: The sweep's.

    Attributes:
        curve: Regret of the best so far at each of 100 equal parts of the budget; inf before the first report.
        trials: How many configurations were tried.
    """

    def __init__(self, problem: Problem, method: str, seed: int) -> None:
        self._problem = problem
        self._known: dict[tuple[Any, ...], tuple[Array, Array]] = {}
        self._found: list[tuple[float, float]] = []  # time, loss of each report
        self._executor = SimulatedExecutor(WORKERS, self._seconds, seed=seed)
        self._end = TRAININGS * problem.mean_seconds / WORKERS
        optimizer, scheduler = METHODS[method]()
        sweep = SweepExperiment(
            self._train, problem.space, optimizer=optimizer, scheduler=scheduler, executor=self._executor,
            workers=WORKERS, metric="loss", seed=seed, name=method,
        )  # fmt: skip
        with TemporaryDirectory() as folder:
            self.trials = len(sweep.run(Budget(seconds=self._end), store=Path(folder) / "store.db").trials)
        self.curve = self._best_so_far()

    def _train(self, ctx: Context, **params: Any) -> None:
        losses, _ = self._curves(params)
        first = int(ctx.load() or 0)
        for step in range(first + 1, UNITS + 1):
            ctx.save(step)
            loss = float(losses[step - 1])
            try:
                ctx.report(step, loss=loss)
            finally:
                self._found.append((self._executor.clock.now(), loss))

    def _seconds(self, arguments: Mapping[str, Any], step: int) -> float:
        _, seconds = self._curves(arguments)
        return float(seconds[step - 1] - (seconds[step - 2] if step > 1 else 0.0))

    def _curves(self, params: Mapping[str, Any]) -> tuple[Array, Array]:
        key = tuple(params[name] for name in self._problem.space.dimensions)
        if key not in self._known:
            self._known[key] = self._problem.curve(params)
        return self._known[key]

    def _best_so_far(self) -> list[float]:
        marks = np.arange(1, GRID + 1) / GRID * self._end
        found = [min((loss for at, loss in self._found if at <= mark), default=math.inf) for mark in marks]
        return [round(self._problem.regret(loss), 4) for loss in found]


def measure(data: Path, out: Path, methods: list[str], names: list[str], seeds: list[int]) -> None:
    """Run what ``out`` does not have yet, and append each run to it."""
    known = read(out)
    for seed in seeds:
        for instance in names:
            missing = [method for method in methods if (instance, seed) not in known.get(method, {})]
            if not missing:
                continue
            problem = Problem(data, instance, seed)
            climbed = round(problem.climbed(), 4)
            for method in missing:
                start = time.process_time()
                run = Run(problem, method, seed)
                cpu = (time.process_time() - start) / max(run.trials, 1)
                row = {"instance": instance, "seed": seed, "method": method, "trials": run.trials, "cpu": round(cpu, 4)}
                row["climbed"] = climbed
                with out.open("a") as file:
                    file.write(json.dumps({**row, "curve": run.curve}) + "\n")


def read(out: Path) -> Runs:
    """Return the runs of a file by method and by (instance, seed)."""
    runs: Runs = {}
    for line in out.read_text().splitlines() if out.exists() else []:
        row = json.loads(line)
        runs.setdefault(row["method"], {})[row["instance"], row["seed"]] = row
    return runs


def table(runs: Runs, base: str) -> str:
    """Return mean regrets, and geometric-mean ratios at 100% to ``base`` over the problems that both have.

    The second ratio takes as the best loss known what climbing from random configurations finds, as reachable.
    """
    marks = " / ".join(f"{mark:.0%}" for mark in MARKS)
    head = f"| method | regret at {marks} | ratio to {base} (log s.e.) | to what climbing finds | runs | trials | CPU per trial |"
    lines = [f"{head}\n|---|---|---|---|---|---|---|\n"]
    for method, found in runs.items():
        shared = [key for key in found if key in runs[base]]
        if shared:
            lines.append(_row(method, [found[key] for key in shared], [runs[base][key] for key in shared]))
    return "".join(lines)


def _row(method: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    places = [round(mark * GRID) - 1 for mark in MARKS]
    means = " / ".join(f"{np.mean([row['curve'][place] for row in ours]):.3f}" for place in places)
    ratios = []
    for floors in (np.zeros(len(ours)), np.array([row["climbed"] for row in ours])):
        logs = np.log(_ends(ours, floors)) - np.log(_ends(theirs, floors))
        error = logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
        ratios.append(f"{math.exp(logs.mean()):.2f} ({error:.2f})")
    trials, cpu = np.mean([row["trials"] for row in ours]), np.mean([row["cpu"] for row in ours])
    return f"| {method} | {means} | {' | '.join(ratios)} | {len(ours)} | {trials:.0f} | {cpu:.3f} s |\n"


def _ends(rows: list[dict[str, Any]], best: Array) -> Array:
    """Return the regrets at the end where ``best`` is 0."""
    ends = np.array([row["curve"][-1] for row in rows])
    return np.maximum((ends - best) / (1.0 - best), FLOOR)


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the surrogate")
    parser.add_argument("--out", type=Path, default=Path("search_quality.jsonl"), help="runs, a line of JSON each")
    parser.add_argument("--methods", nargs="+", default=["tpe", "bayesian"], choices=sorted(METHODS))
    parser.add_argument("--set", choices=[*SETS, "held"], default="check", help="data sets")
    parser.add_argument("--instances", nargs="+", help="data sets by name, instead")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--base", default="tpe", choices=sorted(METHODS), help="what the others are compared with")
    parser.add_argument("--best", action="store_true", help="look for the best losses known, and do nothing else")
    options = parser.parse_args()
    if options.best:
        found = {name: round(Problem(options.data, name, None).search(), 4) for name in instances(options.data)}
        BEST.write_text(json.dumps(found, indent=1) + "\n")
        return
    if options.data is not None:
        warnings.simplefilter("ignore")  # Optuna marks half of its arguments as experimental
        measure(options.data, options.out, options.methods, options.instances or _names(options), options.seeds)
    sys.stdout.write(table(read(options.out), options.base))


def _names(options: argparse.Namespace) -> list[str]:
    if options.set in SETS:
        return list(SETS[options.set])
    used = {name for names in SETS.values() for name in names}
    return [name for name in instances(options.data) if name not in used]


if __name__ == "__main__":
    main()
