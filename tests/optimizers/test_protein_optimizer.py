"""ProteinOptimizer: its Pareto front by brute force, its model by a difference quotient, its rules one by one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

np = pytest.importorskip("numpy", reason="the extra 'protein' is not installed")
pytest.importorskip("scipy", reason="the extra 'protein' is not installed")

from sweep.errors import StrategyError  # noqa: E402  # after the check that it can be tested at all
from sweep.optimizers import ProteinOptimizer  # noqa: E402  # as above
from sweep.optimizers.history import Record, State  # noqa: E402  # as above
from sweep.optimizers.protein import _pareto, _pruned  # noqa: E402  # as above
from sweep.optimizers.smooth import SmoothModel  # noqa: E402  # as above
from sweep.space import Choice, Integer, LogUniform, SearchSpace, Uniform  # noqa: E402  # as above
from sweep.trial import Objective, Result, Status, Trial  # noqa: E402  # as above

PLANE = SearchSpace({"size": Uniform(0, 1), "lr": Uniform(0, 1)})


def record(loss: float, cost: float) -> Record:
    return Record(Trial({}), state=State.SEEN, losses=(loss,), cost=cost)


def learn(optimizer: ProteinOptimizer, n: int, cost: Any = lambda params: 1 + 99 * params["size"]) -> list[Trial]:
    """Larger is better and dearer; the best rate is 0.3."""
    found = []
    for number in range(n):
        [trial] = optimizer.suggest(1)
        trial.number, trial.status = number, Status.COMPLETED
        score = (trial.params["lr"] - 0.3) ** 2 + (1 - trial.params["size"])
        optimizer.observe(trial, Result(score, cost=cost(trial.params)))
        found.append(trial)
    return found


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_pareto_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    front = {(each.losses[0], each.cost) for each in _pareto([record(float(a), float(b)) for a, b in points])}
    expected = {(a, b) for a, b in points if not any((c <= a and d <= b) and (c < a or d < b) for c, d in points)}
    assert front == expected


def test_points_that_cost_much_and_gain_little_leave_the_front() -> None:
    front = [record(1.0, 1.0), record(0.1, 2.0), record(0.099, 50.0), record(0.098, 100.0)]
    assert [each.cost for each in _pruned(front)] == [1.0, 2.0]
    steep = [record(1.0, 1.0), record(0.5, 2.0), record(0.0, 3.0)]
    assert _pruned(steep) == steep


def test_model_gradient_and_interpolation() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((40, 3))
    y = np.sin(4 * x[:, 0]) + x[:, 1]
    model = SmoothModel(x, y)
    at = model._theta + 0.3 * rng.standard_normal(model._theta.size)
    _, gradient = model._loss(at)
    for place, unit in enumerate(np.eye(at.size)):
        slope = (model._loss(at + 1e-5 * unit)[0] - model._loss(at - 1e-5 * unit)[0]) / 2e-5
        assert gradient[place] == pytest.approx(slope, rel=1e-4, abs=1e-4)
    new = rng.random((50, 3))
    mean, sd = model.predict(new)
    assert np.abs(mean - np.sin(4 * new[:, 0]) - new[:, 1]).max() < 0.1
    assert np.all(sd > 0)


def test_it_begins_at_the_center() -> None:
    space = SearchSpace({"lr": LogUniform(1e-4, 1e-2), "depth": Integer(1, 9), "act": Choice(["relu", "gelu"])})
    assert ProteinOptimizer(space).suggest(1)[0].params == {"act": "gelu", "depth": 5, "lr": pytest.approx(1e-3)}
    given = ProteinOptimizer(space, center={"depth": 2, "act": "relu"}).suggest(1)[0].params
    assert (given["depth"], given["act"]) == (2, "relu")


@pytest.mark.parametrize("acquisition", ["naive", "ei", "ucb"])
def test_it_learns_the_rate_at_every_cost(acquisition: Any) -> None:
    found = learn(ProteinOptimizer(PLANE, acquisition), 30)
    late = [trial.params for trial in found[15:]]
    assert sum(abs(params["lr"] - 0.3) for params in late) / len(late) < 0.25
    sizes = [params["size"] for params in late]
    assert min(sizes) < 0.6  # cheap ones too
    assert max(sizes) > 0.7


def test_nothing_dearer_than_the_limit_is_suggested() -> None:
    found = learn(ProteinOptimizer(PLANE, max_suggestion_cost=30, resample_frequency=0), 25)
    dear = [1 + 99 * trial.params["size"] > 36 for trial in found[12:]]
    assert sum(dear) <= 2


def test_pareto_points_are_tried_again() -> None:
    found = learn(ProteinOptimizer(PLANE, resample_frequency=5), 21)
    earlier = [trial.params for trial in found[:20]]
    for place in (5, 10, 15, 20):
        assert found[place].params in earlier[:place]


def test_constant_cost_is_no_trouble_and_failures_are_avoided() -> None:
    optimizer = ProteinOptimizer(PLANE, resample_frequency=0)
    late = []
    for number in range(45):
        [trial] = optimizer.suggest(1)
        failed = trial.params["lr"] > 0.5
        trial.number, trial.status = number, Status.FAILED if failed else Status.COMPLETED
        score = math.nan if failed else 1 - trial.params["lr"]
        optimizer.observe(trial, Result(score, cost=3.0, failure="raised" if failed else None))
        late += [failed] if number >= 25 else []
    assert sum(late) <= 10  # the best scores lie at the edge of what fails


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(StrategyError, match="'ucb'"):
        ProteinOptimizer(acquisition="best")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(StrategyError, match="expansion_rate"):
        ProteinOptimizer(expansion_rate=-1)
    with pytest.raises(StrategyError, match="'depth'"):
        ProteinOptimizer(PLANE, center={"depth": 1}).suggest(1)
    with pytest.raises(StrategyError, match="expected a float"):
        ProteinOptimizer(PLANE, center={"lr": 3}).suggest(1)
    with pytest.raises(StrategyError, match="OptunaOptimizer"):
        ProteinOptimizer().setup(PLANE, [Objective("a"), Objective("b")], 0)
