"""Search quality on real learning curves: YAHPO Gym's LCBench surrogate, in simulated time.

    python benchmarks/search_quality.py --data DIR [--methods tpe bayesian ...] [--instances ...] [--seeds 0 1]

DIR is the folder with ``config_space.json``, ``encoding.json`` and ``model.onnx`` of YAHPO Gym's scenario
"lcbench" (data v1.0.2, https://github.com/slds-lmu/yahpo_data, Apache-2.0). Needs onnxruntime and numpy.

Four asynchronous workers; a trial costs its own training time, kept within a factor 3 of the mean; the budget is
worth 50 full trainings. Regret is (best known - found) / (best known - median of random), best so far at 25, 50
and 100% of the budget. The surrogate's optimum sits in a corner of its box, so the box handed out is wider and mirrored
at the edges, differently for each seed; ``corners``, which tries only corners and the middle, is the canary: a win that
it shares is an artefact.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sweep.optimizers import BayesianOptimizer, OptunaOptimizer, RandomOptimizer, SobolOptimizer
from sweep.optimizers.base import Optimizer
from sweep.schedulers.asha import ASHAScheduler
from sweep.schedulers.base import Scheduler
from sweep.schedulers.batch import BatchScheduler
from sweep.space import Integer, LogInteger, LogUniform, SearchSpace, Uniform
from sweep.trial import Decision, Objective, Report, Result, Status, Trial

WORKERS, TRAININGS, MARKS = 4, 50, (0.25, 0.5, 1.0)
UNITS = 51  # epochs 2 to 52; epoch 1 is the untrained network
INPUTS = ("epoch", "batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
OUTPUTS = 6
CHECK = ("126029", "168331", "189866", "189873", "189905", "34539", "3945", "7593", "146212", "126026")


class Curves(NamedTuple):
    """Loss and cumulative seconds after 1 to 51 units, each (n, 51)."""

    losses: np.ndarray
    seconds: np.ndarray


class Problem:
    """One data set of LCBench in a wider, mirrored box.

    Args:
        data: Folder of the surrogate.
        instance: OpenML task id.
        fold: Seed of the box.
    """

    def __init__(self, data: Path, instance: str, fold: int) -> None:
        import onnxruntime  # type: ignore[import-untyped]  # it has no types

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._model = onnxruntime.InferenceSession(str(data / "model.onnx"), options, ["CPUExecutionProvider"])
        self._code = json.loads((data / "encoding.json").read_text())["OpenML_task_id"][instance]
        listed = json.loads((data / "config_space.json").read_text())["hyperparameters"]
        known = {entry["name"]: entry for entry in listed}
        self._parts = {name: _distribution(known[name]) for name in INPUTS if name != "epoch"}
        self.space = SearchSpace(self._parts)
        rng = np.random.default_rng([fold, zlib.crc32(f"lcbench/{instance}".encode())])
        self._fold = {entry["name"]: rng.uniform(0.10, 0.35, 2) for entry in listed if entry["name"] in self._parts}
        random = [self.space.sample(np.random.default_rng([fold, 7, i])) for i in range(1000)]
        curves = self._raw(random)
        self.mean_seconds = float(curves.seconds[:, -1].mean())
        self.median = float(np.median(curves.losses.min(1)))
        self.best = self._search(random, curves.losses.min(1))

    def curve(self, params: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return losses and cumulative seconds (51,), the total within a factor 3 of the mean."""
        losses, seconds = (rows[0] for rows in self._raw([params]))
        total = min(max(seconds[-1], self.mean_seconds / 3), self.mean_seconds * 3)
        return losses, seconds * (total / seconds[-1])

    def _search(self, params: list[dict[str, Any]], losses: np.ndarray) -> float:
        """Return the best loss that climbing from the best random configurations finds."""
        rng = np.random.default_rng(1)
        units = np.array([self.space.to_unit(each) for each in params])
        for scale in (0.1, 0.05, 0.02, 0.01):
            top = np.repeat(units[np.argsort(losses)[:20]], 20, 0)
            more = np.clip(top + scale * rng.standard_normal(top.shape) * (rng.random(top.shape) < 0.5), 0, 1)
            found = self._raw([self.space.from_unit(unit.tolist()) for unit in more]).losses.min(1)
            units, losses = np.concatenate([units, more]), np.concatenate([losses, found])
        return float(losses.min())

    def _unfolded(self, name: str, value: Any) -> Any:
        low, high = self._fold[name]
        place = abs(self._parts[name].to_unit(value) * (1 + low + high) - low)
        return self._parts[name].from_unit(2 - place if place > 1 else place)

    def _raw(self, params: list[dict[str, Any]]) -> Curves:
        epochs = np.arange(1, UNITS + 2, dtype=np.float32)
        rows = [[0.0, *(self._unfolded(name, each[name]) for name in INPUTS[1:])] for each in params]
        numbers = np.repeat(np.array(rows, dtype=np.float32), len(epochs), axis=0)
        numbers[:, 0] = np.tile(epochs, len(params))
        codes = np.full((len(numbers), 1), self._code, dtype=np.int32)
        out = self._model.run(None, {"x_cat": codes, "x_cont": numbers})[0]
        out = out.reshape(len(params), len(epochs), OUTPUTS).astype(float)
        clock = np.maximum(out[:, :, 0], 0.0)
        total = np.maximum(clock.max(1) * 51 / 52, 1e-3)
        # the surrogate's clock is a smooth guess: make it increase, no epoch cheaper than a fifth of the mean
        steps = np.maximum(np.diff(clock, axis=1), 0.2 * total[:, None] / UNITS)
        seconds = np.cumsum(steps * (total / steps.sum(1))[:, None], axis=1)
        return Curves(-out[:, 1:, 1], seconds)


def _distribution(entry: dict[str, Any]) -> Any:
    low, high, log = entry["lower"], entry["upper"], entry["log"]
    if entry["type"] == "uniform_int":
        return LogInteger(low, high) if log else Integer(low, high)
    return LogUniform(low, high) if log else Uniform(low, high)


class Corners(Optimizer):
    """The canary: corners of the box and its middle."""

    def setup(self, space: SearchSpace, objectives: Any, seed: int) -> None:
        self._space, self._rng = space, np.random.default_rng(seed)

    def suggest(self, n: int) -> list[Trial]:
        d = len(self._space.dimensions)
        return [Trial(self._space.from_unit(self._rng.choice([0.02, 0.5, 0.98], d).tolist())) for _ in range(n)]

    def observe(self, trial: Trial, result: Result) -> None:
        pass


def asha(**options: Any) -> ASHAScheduler:
    """The levels of the recipe: 5 10 20 40 51."""
    return ASHAScheduler(UNITS, 2, 5, promotion_factor=2.5, **options)


METHODS: dict[str, Callable[[], tuple[Optimizer, Scheduler]]] = {
    "random": lambda: (RandomOptimizer(), BatchScheduler()),
    "sobol": lambda: (SobolOptimizer(), BatchScheduler()),
    "corners": lambda: (Corners(), BatchScheduler()),
    "tpe": lambda: (OptunaOptimizer(), BatchScheduler()),
    "random-asha": lambda: (RandomOptimizer(), ASHAScheduler(UNITS, 3, 2)),
    "tpe-asha": lambda: (OptunaOptimizer(), ASHAScheduler(UNITS, 3, 2)),
    "bayesian-full": lambda: (BayesianOptimizer(), BatchScheduler()),
    "bayesian": lambda: (BayesianOptimizer(), asha(rank_by="predicted")),
}


class Simulation:
    """One sweep in simulated time."""

    def __init__(self, problem: Problem, method: str, seed: int) -> None:
        self._problem = problem
        self._optimizer, self._scheduler = METHODS[method]()
        objectives = [Objective("loss")]
        self._optimizer.setup(problem.space, objectives, seed)
        predict = getattr(self._optimizer, "predict", None)
        if isinstance(self._scheduler, ASHAScheduler):
            self._scheduler.setup(problem.space, objectives, seed, predict)
        else:
            self._scheduler.setup(problem.space, objectives, seed)
        self._curves: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._trials: list[Trial] = []
        self._events: list[tuple[float, int, int, int]] = []  # time, tie, trial, step
        self.best: list[tuple[float, float]] = []  # (time, loss) of each report

    def run(self) -> list[float]:
        """Return the regrets at 25, 50 and 100% of the budget."""
        end = TRAININGS * self._problem.mean_seconds / WORKERS
        for _ in range(WORKERS):
            self._fill(0.0)
        while self._events and self._events[0][0] <= end:
            now, _, number, step = heapq.heappop(self._events)
            self._report(self._trials[number], step, now)
        scale = self._problem.median - self._problem.best
        found = [min((loss for at, loss in self.best if at <= share * end), default=math.inf) for share in MARKS]
        return [(loss - self._problem.best) / scale for loss in found]

    def _fill(self, now: float) -> None:
        trial = self._scheduler.next_trial()
        if trial is None:
            [trial] = self._optimizer.suggest(1)
            trial.number = len(self._trials)
            self._trials.append(trial)
            self._curves[trial.number] = self._problem.curve(trial.params)
            self._scheduler.on_add(trial)
        trial.status = Status.RUNNING
        self._go(trial, now)

    def _go(self, trial: Trial, now: float) -> None:
        """Run to the next step at which something may be decided."""
        step = min(self._scheduler.next_decision(trial) or trial.step + 1, UNITS)
        if isinstance(self._scheduler, BatchScheduler):
            step = UNITS
        losses, seconds = self._curves[trial.number]
        start = seconds[trial.step - 1] if trial.step else 0.0
        for at in range(trial.step + 1, step + 1):
            self.best.append((now + float(seconds[at - 1] - start), float(losses[at - 1])))
        heapq.heappush(self._events, (now + float(seconds[step - 1] - start), len(self.best), trial.number, step))

    def _report(self, trial: Trial, step: int, now: float) -> None:
        losses, _ = self._curves[trial.number]
        trial.history += [Report(at, {"loss": float(losses[at - 1])}) for at in range(trial.step + 1, step + 1)]
        trial.step, trial.score = step, float(losses[step - 1])
        trial.metrics, trial.values = {"loss": trial.score}, (trial.score,)
        decision = self._scheduler.on_report(trial, step, trial.metrics)
        if decision is Decision.CONTINUE and step < UNITS:
            self._go(trial, now)
            return
        trial.status = Status.PAUSED if decision is Decision.PAUSE else Status.STOPPED
        if step == UNITS:
            trial.status = Status.COMPLETED
        self._optimizer.observe(trial, Result(trial.score, metrics=trial.metrics, trial=trial, step=step))
        self._scheduler.on_end(trial)
        self._fill(now)

    @property
    def n_trials(self) -> int:
        """How many configurations were tried."""
        return len(self._trials)


def main() -> None:
    """Run, and print a line for each run and a table of means and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["tpe", "bayesian"], choices=sorted(METHODS))
    parser.add_argument("--instances", nargs="+", default=list(CHECK[:6]))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, help="append each run to this file as a line of JSON")
    options = parser.parse_args()
    runs: dict[str, list[list[float]]] = {method: [] for method in options.methods}
    for instance in options.instances:
        for seed in options.seeds:
            problem = Problem(options.data, instance, seed)
            for method in options.methods:
                start = time.process_time()
                simulation = Simulation(problem, method, seed)
                regret = simulation.run()
                cost = (time.process_time() - start) / simulation.n_trials
                runs[method].append(regret)
                row = {"instance": instance, "seed": seed, "method": method, "regret": regret}
                row |= {"trials": simulation.n_trials, "cpu": cost}
                shown = " ".join(f"{value:.3f}" for value in regret)
                sys.stdout.write(
                    f"{instance} {seed} {method:14} {shown}  {len(simulation.best)} {simulation.n_trials} {cost:.3f}s\n"
                )
                sys.stdout.flush()
                if options.out:
                    with options.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    sys.stdout.write(table(runs))


def table(runs: dict[str, list[list[float]]]) -> str:
    """Return mean regrets, and the geometric-mean ratio at 100% to the first method with its log standard error."""
    lines = []
    base = np.log(np.maximum([regret[-1] for regret in next(iter(runs.values()))], 0.01))
    for method, regrets in runs.items():
        logs = np.log(np.maximum([regret[-1] for regret in regrets], 0.01)) - base
        error = logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
        means = " / ".join(f"{value:.3f}" for value in np.mean(regrets, axis=0))
        lines.append(f"| {method} | {means} | {math.exp(logs.mean()):.2f} | {error:.2f} | {len(logs)} |\n")
    return "".join(["| method | regret at 25 / 50 / 100% | ratio | log s.e. | runs |\n|---|---|---|---|---|\n", *lines])


if __name__ == "__main__":
    main()
