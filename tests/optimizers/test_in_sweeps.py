"""Optimizers inside sweeps: warm starts from every source, and the same configurations with any number of workers."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from ax_words import AX
from simulation import NEEDS

from sweep import Choice, Integer, SweepExperiment, Uniform
from sweep.executors import SimulatedExecutor
from sweep.optimizers import (
    AxOptimizer,
    BayesianOptimizer,
    GridOptimizer,
    NevergradOptimizer,
    OptunaOptimizer,
    ProteinOptimizer,
    RandomOptimizer,
    SobolOptimizer,
)
from sweep.schedulers import PBTScheduler
from sweep.space import SearchSpace
from sweep.trial import Source

SPACE = {"x": Uniform(0, 1, num=9), "n": Integer(1, 3)}
MAKERS: dict[str, Callable[[], Any]] = {
    "random": RandomOptimizer, "sobol": SobolOptimizer, "grid": GridOptimizer, "bayesian": BayesianOptimizer,
    "tpe": OptunaOptimizer, "cmaes": lambda: OptunaOptimizer(sampler="CmaEs"), "protein": ProteinOptimizer,
    "nevergrad": lambda: NevergradOptimizer(optimizer="OnePlusOne"), "ax": AxOptimizer, "pbt": lambda: PBTScheduler(6, 3),
}  # fmt: skip


def bowl(x: float, n: int) -> float:
    """Best at x = 0.3, n = 2."""
    return (x - 0.3) ** 2 + (n - 2) ** 2 / 10


def _sweep(optimizer: Any, **more: Any) -> SweepExperiment:
    executor = SimulatedExecutor(1, lambda params, step: 1.0 + params["x"])  # so that costs are the same each time
    return SweepExperiment(bowl, SPACE, optimizer=optimizer, executor=executor, **{"name": "s", "seed": 1, **more})


def _names() -> list[Any]:
    return [pytest.param(name, marks=AX if name == "ax" else ()) for name in MAKERS]


def _made(name: str) -> Any:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], exc_type=ImportError)
    if name == "ax":
        pytest.importorskip("torch").set_num_threads(1)
    return MAKERS[name]()


@pytest.mark.parametrize("name", _names())
def test_every_optimizer_starts_from_earlier_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By id, by name, by result and by a table of rows they are told the same; what does not fit is listed."""
    earlier = _sweep(RandomOptimizer(), name="earlier").run(12)
    rows = [{**trial.params, "score": trial.score, "cost": trial.cost} for trial in earlier.trials]
    wrong = [{"x": 7.0, "n": 2, "score": 0.0}, {"x": 8.0, "n": 9, "score": 0.0}, {"n": 2, "score": 0.0}]
    found = {}
    sources = {"id": earlier.run_id, "name": "earlier", "result": earlier, "rows": [*rows, *wrong]}
    count, kinds = (1, ["id", "rows"]) if name == "ax" else (2, list(sources))  # it takes a second for each suggestion
    for kind in kinds:
        source = sources[kind]
        capsys.readouterr()
        result = _sweep(_made(name), init_from=source, name=f"from-{kind}").run(count)
        said = capsys.readouterr().err
        assert ("3 trials do not fit the space and are left out" in said) == (kind == "rows"), said
        if kind == "rows":
            assert "'x' got 7.0 (float), expected a float in [0.0, 1.0]" in said
            assert "'n' got 9 (int), expected a whole number (int) in [1, 3]" in said
        found[kind] = [trial.params for trial in result.trials]
        assert len(result.trials) == count
        assert all(trial.source == Source.OPTIMIZER for trial in result.trials)
    assert all(params == found["id"] for params in found.values())
    cold = [trial.params for trial in _sweep(_made(name), name="cold").run(count).trials]
    learns = name not in ("random", "sobol", "grid")  # a grid leaves out what was tried: random ones are not on it
    assert (cold != found["id"]) == learns


@pytest.mark.parametrize("name", [pytest.param("ax", marks=AX), "bayesian", "tpe", "protein"])
def test_a_warm_start_is_made_use_of_at_once(name: str) -> None:
    """With thirty results that show where the best is, the first suggestions are there, not spread out."""
    space = SearchSpace(SPACE)
    rows = [{**params, "score": bowl(**params)} for params in space.grid()]
    result = _sweep(_made(name), init_from=rows).run(3 if name == "ax" else 5)
    tried = [trial.params for trial in result.trials][1:]  # Protein's first is the centre
    assert statistics.median(abs(params["x"] - 0.3) for params in tried) < 0.15
    assert statistics.median(params["n"] for params in tried) == 2


def test_a_grid_leaves_out_what_was_completed_earlier() -> None:
    first = _sweep(GridOptimizer(), name="first").run(10)
    rest = _sweep(GridOptimizer(), name="rest", init_from=first).run()
    assert len(rest.trials) == 27 - 10
    assert not {repr(trial.params) for trial in first.trials} & {repr(trial.params) for trial in rest.trials}


def test_a_grid_is_tried_once_each_with_failures_retries_and_a_resume_on_eight_workers() -> None:
    begun: Counter[tuple[float, int]] = Counter()

    def fragile(x: float, n: int) -> float:
        begun[x, n] += 1
        if n == 3 or (n == 2 and begun[x, n] == 1):
            raise ValueError("always" if n == 3 else "at first")
        return x

    def sweep() -> SweepExperiment:
        executor = SimulatedExecutor(8, lambda params, step: 1.0 + 5 * params["x"], seed=3)
        return SweepExperiment(fragile, SPACE, optimizer=GridOptimizer(), executor=executor, retries=1, seed=1, name="grid")

    assert len(sweep().run(11).trials) == 11
    result = sweep().run(100, resume="must")
    whole = sorted(map(repr, SearchSpace(SPACE).grid()))
    assert sorted(repr(trial.params) for trial in result.trials) == whole
    assert {n: {begun[x, m] for x, m in begun if m == n} for n in (1, 2, 3)} == {1: {1}, 2: {2}, 3: {2}}
    assert result.n_failed == 9


@pytest.mark.parametrize("make", [RandomOptimizer, SobolOptimizer, GridOptimizer])
def test_without_history_any_number_of_workers_tries_the_same(make: Any) -> None:
    """The n-th trial has the same parameters with 1, 2 and 8 workers, with ends in any order, and on every executor."""
    space = {"x": Uniform(0, 1, num=4), "kind": Choice(["a", "b", "c"]), "n": Integer(1, 2)}

    def run(workers: int, executor: Any) -> list[Any]:
        sweep = SweepExperiment(
            _slow,
            space,
            optimizer=make(),
            executor=executor,
            workers=workers,
            seed=5,
            name=f"w{workers}{type(executor)}",
        )
        return [trial.params for trial in sweep.run(20).trials]

    def simulated(workers: int) -> Any:
        return SimulatedExecutor(workers, lambda params, step: 1.0 + 9 * params["x"], seed=workers)

    one = run(1, simulated(1))
    assert len({repr(params) for params in one}) > 10
    assert one == run(2, simulated(2)) == run(8, simulated(8)) == run(8, "inline") == run(2, "thread")


def _slow(x: float, kind: str, n: int) -> float:
    return x + n
