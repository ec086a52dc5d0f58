"""The curve model against formulas written out, and the search against what it promises."""

from __future__ import annotations

import math
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="the extra 'bayesian' is not installed")
pytest.importorskip("scipy", reason="the extra 'bayesian' is not installed")

from sweep.errors import StrategyError  # noqa: E402  # after the check that it can be tested at all
from sweep.optimizers import BayesianOptimizer, RandomOptimizer  # noqa: E402  # as above
from sweep.optimizers.curves import CurveModel, Scale, _Data, log_expected_improvement  # noqa: E402  # as above
from sweep.optimizers.encoding import Encoding  # noqa: E402  # as above
from sweep.space import Choice, Integer, LogInteger, LogUniform, Ordinal, SearchSpace, Uniform  # noqa: E402  # as above
from sweep.testing.optimizers import copies, params_of, play  # noqa: E402  # as above
from sweep.trial import Objective, Report, Result, Source, Status, Trial  # noqa: E402  # as above

LAST = 51.0


def data(n: int = 30, width: int = 3) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    return rng.random((n, width)), rng.choice([5.0, 10.0, 20.0, LAST], n), rng.standard_normal(n)


def covariance(a: Any, r: float, b: Any, s: float, theta: Any) -> float:
    """The kernel of the documentation for one pair, written out."""
    d = len(a)
    lengths, spreads = np.exp(theta[:d]), np.exp(theta[d : 2 * d])
    sg, sh, sr, p = np.exp(theta[2 * d : 2 * d + 4])
    w = 1 / (1 + math.exp(-theta[-1]))

    def m32(t: float) -> float:
        return (1 + math.sqrt(3) * t) * math.exp(-math.sqrt(3) * t)

    def phi(r: float) -> float:
        return float((r**-p - LAST**-p) / (1 - LAST**-p))

    t = math.sqrt(sum(((x - y) / length) ** 2 for x, y, length in zip(a, b, lengths, strict=True)))
    kx = (1 - w) * m32(t) + w / d * sum(m32(abs(x - y) / spread) for x, y, spread in zip(a, b, spreads, strict=True))
    u = math.sqrt(5) * abs(math.log(r / s)) / (0.4 * math.log(LAST))
    time = sg + sh * phi(r) * phi(s) + sr * (1 + u + u**2 / 3) * math.exp(-u)
    return float(kx * time + 1 + phi(r) * phi(s))


def test_prediction_is_the_textbook_posterior() -> None:
    x, steps, z = data()
    rng = np.random.default_rng(1)
    model = CurveModel(3, LAST)
    model.theta = model.theta + 0.5 * rng.standard_normal(model.theta.size)
    model.condition(x, steps, z)
    noise = math.exp(model.theta[-2]) + 1e-6
    rows = list(zip(x, steps, strict=True))
    k = np.array([[covariance(a, r, b, s, model.theta) for b, s in rows] for a, r in rows])
    new = rng.random((4, 3))
    cross = np.array([[covariance(a, 20.0, b, s, model.theta) for b, s in rows] for a in new])
    inverse = np.linalg.inv(k + noise * np.eye(len(x)))
    own = covariance(new[0], 20.0, new[0], 20.0, model.theta)
    mean, sd = model.predict(new, 20.0)
    assert mean == pytest.approx(cross @ inverse @ z, rel=1e-6, abs=1e-8)
    assert sd == pytest.approx(np.sqrt(own - np.einsum("ij,jk,ik->i", cross, inverse, cross)), rel=1e-5)


def test_gradient_is_the_slope_of_the_posterior() -> None:
    x, steps, z = data()
    model = CurveModel(3, LAST)
    at = model.theta + 0.3 * np.random.default_rng(2).standard_normal(model.theta.size)
    inner = _Data.of(x, steps, z)
    _, gradient = model._loss(at, inner)
    for place, unit in enumerate(np.eye(at.size)):
        slope = (model._loss(at + 1e-5 * unit, inner)[0] - model._loss(at - 1e-5 * unit, inner)[0]) / 2e-5
        assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_a_varied_model_has_other_lengths_and_the_same_curves() -> None:
    model = CurveModel(3, LAST)
    model.theta = model.theta + 0.2
    before = model.theta.copy()
    thetas = np.array([model.varied(np.random.default_rng(seed)).theta for seed in range(400)])
    assert np.array_equal(model.theta, before)
    off = thetas - before
    assert np.all(off[:, 6:11] == 0)  # sg, sh, sr, p, noise
    moved = off[:, [0, 1, 2, 3, 4, 5, 11]]
    assert moved.mean(0) == pytest.approx(0, abs=0.06)  # four standard errors of 400 draws
    assert moved.std(0) == pytest.approx(0.3, abs=0.05)
    model.theta = np.full_like(before, -1e9)
    _, steps, z = data(2)
    model.varied(np.random.default_rng(0)).condition(np.eye(3)[:2], steps, z)  # inside its bounds again


def test_expected_improvement_far_into_the_tail() -> None:
    from scipy.integrate import quad  # type: ignore[import-untyped]  # scipy has no types
    from scipy.stats import norm  # type: ignore[import-untyped]  # as above

    for u in (-8.0, -3.0, -1.0001, -0.9999, 0.0, 3.0):
        exact = quad(lambda y, u=u: (u - y) * norm.pdf(y), u - 12, u)[0]
        found = log_expected_improvement(np.array([-2 * u]), np.array([2.0]), 0.0)[0]
        assert found == pytest.approx(math.log(2 * exact), rel=1e-6)
    far = log_expected_improvement(np.array([10.0, 1e3, 1e6]), np.ones(3), 0.0)
    assert np.all(np.diff(far) < 0)
    assert np.all(np.isfinite(far))


def test_losses_are_squeezed_above_the_median_and_come_back() -> None:
    losses = np.array([1.0, 2.0, 3.0, 4.0, 1e6])
    scale = Scale.of(losses, losses)
    z = scale.apply(losses)
    assert z.mean() == pytest.approx(0, abs=1e-9)
    assert z.std() == pytest.approx(1)
    assert np.all(np.diff(z) > 0)
    assert (z[4] - z[2]) / (z[2] - z[0]) < 14  # half a million spans away before
    assert scale.undo(z) == pytest.approx(losses)


SPACE = SearchSpace(
    {
        "lr": LogUniform(1e-5, 1),
        "units": LogInteger(3, 700),
        "depth": Integer(1, 9, step=2),
        "kind": Choice(["a", "b", None]),
        "size": Ordinal([8, 16, 32]),
        "drop": Uniform(0, 1, when=[("kind", ["a", None]), ("depth", [3, 5])]),
        "sub": Choice(["p", "q"], when=("kind", "a")),
    }
)


def test_snapping_is_the_way_through_the_space_and_back() -> None:
    encoding = Encoding(SPACE)
    units = np.random.default_rng(0).random((400, encoding.dimensions))
    snapped = encoding.snap(units)
    expected = [SPACE.to_unit(SPACE.from_unit(unit.tolist())) for unit in units]
    assert snapped == pytest.approx(np.array(expected), abs=1e-9)
    assert encoding.snap(snapped) == pytest.approx(snapped, abs=1e-9)


def test_features_tell_configurations_apart() -> None:
    encoding = Encoding(SPACE)
    generator = np.random.default_rng(0)
    params = [SPACE.sample(generator) for _ in range(100)]
    x = encoding.features(encoding.snap(encoding.units(params)))
    assert x.shape == (100, encoding.width) == (100, 5 + 3 + 2)
    assert len({row.tobytes() for row in x}) == 100
    sub = x[:, -3:-1]  # of two options, before the last dimension
    active = np.array(["sub" in each for each in params])
    assert SPACE.dimensions[-2:] == ("sub", "units")
    assert np.all(sub[~active] == 0)
    assert (sub[active] ** 2).sum(1) == pytest.approx(0.5)


def test_it_is_far_ahead_of_random_search() -> None:
    space = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(4)})

    def bowl(params: Any) -> float:
        return float(sum((params[f"x{i}"] - 0.3 - 0.1 * i) ** 2 for i in range(4)))

    def best(optimizer: Any) -> float:
        return min(trial.score or 0.0 for trial in play(optimizer, 35, bowl))

    assert best(BayesianOptimizer(space)) < 0.002 < 0.01 < best(RandomOptimizer(space))


def curve(x: float, y: float, last: int, sign: int = 1) -> list[Report]:
    """A learning curve that starts high where it ends low: what is seen early misleads."""
    return [Report(step, {"loss": sign * (x + (4 - 4 * x) * step**-0.5 + 0.1 * y)}) for step in range(1, last + 1)]


def partial(optimizer: BayesianOptimizer, n: int, sign: int = 1) -> list[Trial]:
    """Suggest, pause after 5 steps; every third goes on to 50."""
    trials = []
    for number in range(n):
        [trial] = optimizer.suggest(1)
        trial.number = number
        trial.step = 50 if number % 3 == 0 else 5
        trial.history = curve(trial.params["x"], trial.params["y"], trial.step, sign)
        trial.status = Status.COMPLETED if trial.step == 50 else Status.PAUSED
        trial.score = trial.history[-1].metrics["loss"]
        optimizer.observe(trial, Result(trial.score, trial=trial, step=trial.step))
        trials.append(trial)
    return trials


PLANE = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})


@pytest.mark.parametrize("mode", ["min", "max"])
def test_prediction_sees_the_end_of_curves_that_cross(mode: Any) -> None:
    optimizer = BayesianOptimizer(n_initial=24)
    optimizer.setup(PLANE, [Objective("loss", mode)], 3)
    sign = 1 if mode == "min" else -1
    paused = [trial for trial in partial(optimizer, 27, sign) if trial.status is Status.PAUSED]
    found = optimizer.predict(paused, 50)
    ends = [curve(trial.params["x"], trial.params["y"], 50, sign)[-1].metrics["loss"] for trial in paused]
    means = [mean for mean, _ in found]
    assert np.corrcoef(means, ends)[0, 1] > 0.95
    assert np.corrcoef([trial.score for trial in paused], ends)[0, 1] < -0.5
    assert all(sd > 0 for _, sd in found)


def test_prediction_before_there_is_a_model_and_for_strangers() -> None:
    optimizer = BayesianOptimizer(PLANE)
    [(mean, sd)] = optimizer.predict([Trial({"x": 0.1, "y": 0.2})], 50)
    assert math.isnan(mean)
    assert math.isnan(sd)
    partial(optimizer, 6)
    stranger, known = optimizer.predict([Trial({"z": 1}), Trial({"x": 0.1, "y": 0.2})], 50)
    assert math.isnan(stranger[0])
    assert math.isfinite(known[0])


def test_a_score_that_is_another_quantity_than_the_reports_has_no_curve() -> None:
    """A returned test score: with the curve of the training loss under it the model would be off by a thousand."""
    optimizer = BayesianOptimizer(PLANE, n_initial=8)
    for number in range(8):
        [trial] = optimizer.suggest(1)
        trial.number, trial.status, trial.step = number, Status.COMPLETED, 10
        trial.history = [Report(step, {"train": 1000.0 - step}) for step in range(1, 11)]
        optimizer.observe(trial, Result(trial.params["x"], step=10))
    mean, _ = optimizer.predict([Trial({"x": 0.5, "y": 0.5})], 10)[0]
    assert abs(mean - 0.5) < 0.2


def test_restore_after_every_prefix_with_pauses_and_fits() -> None:
    def fresh() -> BayesianOptimizer:
        optimizer = BayesianOptimizer(n_initial=5)
        optimizer.setup(PLANE, [Objective("loss")], 1)
        return optimizer

    whole = partial(fresh(), 22)
    assert sum("fit" in (trial.notes or {}) for trial in whole) >= 3
    fits = 0
    for cut in range(0, 22, 3):
        restored = fresh()
        restored.restore(copies(whole[:cut]))
        [trial] = restored.suggest(1)
        assert (trial.params, trial.notes) == (whole[cut].params, whole[cut].notes)  # fitted when the other was
        fits += "fit" in (trial.notes or {})
    assert 1 <= fits <= 6


def test_where_everything_fails_is_avoided() -> None:
    def half(params: Any) -> float:
        return math.nan if params["x"] > 0.5 else float((params["x"] - 0.45) ** 2 + params["y"])

    late = play(BayesianOptimizer(PLANE), 30, half)[15:]
    assert sum(trial.params["x"] > 0.5 for trial in late) <= 4


def test_where_the_model_is_sure_nothing_is_tried_again() -> None:
    """The trap of expected improvement: near-copies of the best for ever."""
    near = 0
    for seed in range(2):
        optimizer = BayesianOptimizer(n_initial=4)
        optimizer.setup(SearchSpace({"x": Uniform(0, 1)}), [Objective()], seed)
        x = [trial.params["x"] for trial in play(optimizer, 36, lambda params: (params["x"] - 0.3) ** 2)]
        near += sum(min(abs(other - x[place]) for other in x[:place]) < 0.002 for place in range(12, 36))
    assert near <= 7  # 14 with expected improvement alone


def test_a_small_space_is_tried_through_before_anything_repeats() -> None:
    space = SearchSpace({"a": Integer(1, 5), "b": Choice(["x", "y", "z"])})
    trials = play(BayesianOptimizer(space, n_initial=3), 15, lambda params: params["a"])
    modelled = params_of(trials[3:])
    assert len({repr(params) for params in modelled}) == len(modelled)
    play(BayesianOptimizer(space, n_initial=3), 18, lambda params: params["a"])


def test_more_trials_than_the_model_takes_in() -> None:
    generator = np.random.default_rng(0)
    history = []
    for number in range(900):
        params = PLANE.sample(generator)
        trial = Trial(params, number=number, status=Status.COMPLETED, step=50, source=Source.ENQUEUED)
        trial.history = curve(params["x"], params["y"], 50)
        trial.score = trial.history[-1].metrics["loss"]
        history.append(trial)
    optimizer = BayesianOptimizer()
    optimizer.setup(PLANE, [Objective("loss")], 0)
    optimizer.restore(history)
    for trial in optimizer.suggest(1):
        PLANE.validate(trial.params)
    assert optimizer._believe()._x.shape[0] <= 200  # type: ignore[union-attr]  # there is a model


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(StrategyError, match="OptunaOptimizer"):
        BayesianOptimizer().setup(PLANE, [Objective("a"), Objective("b")], 0)
    for wrong in (0, 2.5, True):
        with pytest.raises(StrategyError, match=rf"n_initial={wrong}\): expected a whole number >= 1"):
            BayesianOptimizer(n_initial=wrong)
