"""ProteinOptimizer: its Pareto front by brute force, its model by a difference quotient, its rules one by one."""

from __future__ import annotations

import inspect
import math
import time
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
from sweep.space import Choice, Integer, LogitUniform, LogUniform, Ordinal, SearchSpace, Uniform  # noqa: E402  # as above
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


def test_where_everything_is_too_dear_the_cheapest_is_taken() -> None:
    """Cost is 1 to exp(5), the limit below all of it: the next ones are small ones, as cheap as there are."""
    optimizer = _history(resample_frequency=0, max_suggestion_cost=0.01)
    x = optimizer._features([Record(Trial({"size": a / 9, "lr": 0.5})) for a in range(10)])
    rating = optimizer._rate(x, optimizer._history.records, _Target(0.5))  # type: ignore[arg-type]  # it draws one number
    assert np.all(np.isfinite(rating))
    assert np.argmax(rating) == 0
    cheapest = min(record.params["size"] for record in optimizer._history.records)
    sizes = [trial.params["size"] for trial in optimizer.suggest(6)[1:]]  # the first is the centre
    assert max(sizes) <= cheapest


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
    with pytest.raises(StrategyError, match=r"num_random_samples=1.5.: expected a whole number >= 0"):
        ProteinOptimizer(num_random_samples=1.5)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(StrategyError, match=r"scale=.*above 0"):
        ProteinOptimizer(scale={"lr": -1})
    with pytest.raises(StrategyError, match="'depth'"):
        ProteinOptimizer(PLANE, center={"depth": 1}).suggest(1)
    with pytest.raises(StrategyError, match="expected a float"):
        ProteinOptimizer(PLANE, center={"lr": 3}).suggest(1)
    with pytest.raises(StrategyError, match="OptunaOptimizer"):
        ProteinOptimizer().setup(PLANE, [Objective("a"), Objective("b")], 0)


def test_defaults_are_mettas() -> None:
    parameters = inspect.signature(ProteinOptimizer).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert {
        "acquisition": "naive", "num_random_samples": 0, "resample_frequency": 10, "expansion_rate": 0.25,
        "suggestions_per_pareto": 256, "max_suggestion_cost": 10800, "ucb_beta": 2.0, "global_search_scale": 1.0,
    }.items() <= defaults.items()  # fmt: skip


class _Target:
    """A generator whose next number is known."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


def _history(mode: Any = "min", n: int = 14, **options: Any) -> ProteinOptimizer:
    """An optimizer that has seen n random points of the plane, the same ones each time."""
    optimizer = ProteinOptimizer(**options)
    optimizer.setup(PLANE, [Objective("loss", mode)], 0)
    rng, sign = np.random.default_rng(4), -1 if mode == "max" else 1
    for number in range(n):
        trial = Trial({"size": float(rng.random()), "lr": float(rng.random())}, number=number, status=Status.COMPLETED)
        loss = (trial.params["lr"] - 0.3) ** 2 + (1 - trial.params["size"])
        optimizer.observe(trial, Result(sign * loss, cost=math.exp(5 * trial.params["size"])))
    return optimizer


def test_each_parameter_is_seen_on_its_own_scale() -> None:
    """Half way on the scale is half way for the models, and where the search begins: metta's linear, log, … by name."""
    space = SearchSpace(
        {
            "discount": LogitUniform(0.5, 0.99), "linear": Uniform(-1, 3), "log": LogUniform(1e-4, 1),
            "power": Ordinal([16, 32, 64, 128, 256]), "whole": Integer(0, 10),
        }
    )  # fmt: skip
    odds = math.sqrt(1 * 99)
    middle = {"discount": odds / (1 + odds), "linear": 1.0, "log": 1e-2, "power": 64, "whole": 5}
    optimizer = ProteinOptimizer(space)
    optimizer.setup(space, [Objective("loss")], 0)
    assert optimizer.suggest(1)[0].params == pytest.approx(middle)
    assert optimizer._features([Record(Trial(middle))]) == pytest.approx(np.full((1, 5), 0.5))
    twice = {"discount": 1 - 1 / (1 + odds * 99**0.25), "linear": 2.0, "log": 1e-1, "power": 128, "whole": 7}
    assert optimizer._features([Record(Trial(twice))]) == pytest.approx(np.array([[0.75, 0.75, 0.75, 0.7, 15 / 22]]))


@pytest.mark.parametrize(
    ("acquisition", "limit", "draw"), [("naive", 10800, 0.4), ("ucb", 40, 0.9), ("ei", 10800, 0.8)]
)
def test_rating_is_the_formula(acquisition: Any, limit: float, draw: float) -> None:
    """Promise of the score times closeness of log cost to the target; -inf beyond the limit. Candidate by candidate."""
    optimizer = _history(acquisition=acquisition, max_suggestion_cost=limit)
    records = optimizer._history.records
    x = optimizer._features([Record(Trial({"size": a / 9, "lr": b / 9})) for a in range(10) for b in range(10)])
    rating = optimizer._rate(x, records, _Target(draw))  # type: ignore[arg-type]  # it draws one number
    seen = optimizer._features(records)
    losses, logs = [each.losses[0] for each in records], [math.log(each.cost) for each in records]
    span, reach = max(losses) - min(losses), max(logs) - min(logs)
    score = SmoothModel(seen, np.array([(max(losses) - loss) / span for loss in losses])).predict(x)
    cost, _ = SmoothModel(seen, np.array([(log - min(logs)) / reach for log in logs])).predict(x)
    target, compared, excluded = 1.25 * draw, 0, 0
    for mean, sd, log, found in zip(*score, cost, rating, strict=True):
        if math.exp(log * reach + min(logs)) > limit:
            assert found == -math.inf
            excluded += 1
            continue
        u = (mean - 1.0) / sd  # the best seen scores 1
        gain = sd * (u * 0.5 * math.erfc(-u / math.sqrt(2)) + math.exp(-u * u / 2) / math.sqrt(2 * math.pi))
        promise = {"naive": mean, "ucb": mean + 2 * sd, "ei": gain}[acquisition]
        if promise > 1e-7 and abs(log - target) < 0.999:
            assert found == pytest.approx(promise * (1 - abs(log - target)), rel=1e-5)
            compared += 1
    assert compared >= 5
    assert (excluded > 0) == (limit < 100)


def test_a_failure_is_no_score() -> None:
    """With a failed trial the rating is what it was times a share of fifths; the score model has not changed."""
    without, with_one = _history(), _history()
    failed = Trial({"size": 0.5, "lr": 0.5}, number=20, status=Status.FAILED)
    with_one.observe(failed, Result(math.nan, cost=9.0, failure="raised"))
    x = without._features([Record(Trial({"size": a / 9, "lr": b / 9})) for a in range(10) for b in range(10)])
    ratings = [
        each._rate(x, [one for one in each._history.records if one.state is State.SEEN], _Target(0.5))  # type: ignore[arg-type]  # as above
        for each in (without, with_one)
    ]
    shares = {round(share, 6) for share in ratings[1] / ratings[0]}
    assert shares == {0.8, 1.0}


def test_pending_trials_count_as_worst_in_either_direction() -> None:
    """The liar keeps the next suggestion away, minimising and maximising alike."""

    def next_ones(mode: Any) -> list[dict[str, Any]]:
        return [trial.params for trial in _history(mode, resample_frequency=0, num_random_samples=0).suggest(6)[1:]]

    down, up = next_ones("min"), next_ones("max")
    assert down == up
    assert len({repr(params) for params in down}) == 5
    optimizer = _history()
    x = optimizer._features([Record(Trial({"size": 0.8, "lr": 0.3}))])
    seen = list(optimizer._history.records)
    before = optimizer._rate(x, seen, _Target(0.6))  # type: ignore[arg-type]  # as above
    optimizer._history.ask(Trial({"size": 0.8, "lr": 0.3}))
    after = optimizer._rate(x, seen, _Target(0.6))  # type: ignore[arg-type]  # as above
    assert after[0] < 0.8 * before[0]


def test_ties_duplicates_and_parameters_without_a_choice_are_no_trouble() -> None:
    space = SearchSpace({"kind": Choice(["only"]), "n": Integer(1, 2), "x": Uniform(0, 1), "one": Choice([None])})
    optimizer = ProteinOptimizer(space)
    for number in range(14):
        [trial] = optimizer.suggest(1)
        space.validate(trial.params)
        trial.number, trial.status = number, Status.COMPLETED
        optimizer.observe(trial, Result(float(number % 2), cost=1.0 + number % 2))
        twin = Trial(dict(trial.params), number=100 + number, status=Status.COMPLETED)
        optimizer.observe(twin, Result(float(number % 2), cost=1.0 + number % 2))


def test_a_suggestion_after_a_hundred_observations_in_six_dimensions() -> None:
    """Under two seconds of one core."""
    space = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(6)})
    optimizer, rng = ProteinOptimizer(space), np.random.default_rng(0)
    optimizer.suggest(1)
    for number in range(100):
        params = {name: float(rng.random()) for name in space}
        trial = Trial(params, number=number, status=Status.COMPLETED)
        optimizer.observe(trial, Result(sum(params.values()), cost=math.exp(4 * params["x0"])))
    began = time.process_time()
    optimizer.suggest(1)
    assert time.process_time() - began < 2
