"""Every sampler that Optuna ships and a range of Nevergrad's optimizers, by name, on a space with conditions."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

import pytest

from sweep.errors import StrategyError
from sweep.optimizers import NevergradOptimizer, OptunaOptimizer
from sweep.space import Choice, Integer, LogUniform, Ordinal, SearchSpace, Uniform
from sweep.testing.optimizers import copies, play
from sweep.trial import Objective, Result, Status

SPACE = SearchSpace(
    {
        "lr": LogUniform(1e-4, 1e-1, num=3),
        "depth": Integer(1, 3),
        "kind": Choice(["a", "b"]),
        "drop": Uniform(0.0, 0.5, num=2, when=("kind", "b")),
        "width": Ordinal([16, 32]),
    }
)
FINITE = SearchSpace({"depth": Integer(1, 3), "kind": Choice(["a", "b"]), "width": Ordinal([16, 32, 64])})
OPTIONS: dict[str, dict[str, Any]] = {
    "CmaEs": {"popsize": 4}, "GP": {"n_startup_trials": 4}, "NSGAII": {"population_size": 4},
    "NSGAIII": {"population_size": 4}, "PartialFixed": {"fixed_params": {"depth": 2}}, "TPE": {"n_startup_trials": 4},
}  # fmt: skip


def bowl(params: Any) -> float:
    return float(params["depth"] - 0.001 * params["width"] + (params["kind"] == "a") + params.get("drop", 0.2))


def _names() -> list[str]:
    samplers = pytest.importorskip("optuna", reason="the extra 'optuna' is not installed").samplers
    found = [getattr(samplers, name) for name in samplers.__all__]
    return [each.__name__ for each in found if inspect.isclass(each) and not inspect.isabstract(each)]


def _options(name: str) -> dict[str, Any]:
    import optuna

    options = dict(OPTIONS.get(name, {}))
    return {**options, "base_sampler": optuna.samplers.RandomSampler(seed=1)} if name == "PartialFixed" else options


def test_every_sampler_that_optuna_ships() -> None:
    """None is left out: the names are Optuna's own list, with "Sampler" and without."""
    names = _names()
    assert {"TPESampler", "CmaEsSampler", "GPSampler", "NSGAIISampler", "GridSampler"} <= set(names)
    for name in names:
        short = name.removesuffix("Sampler")
        space = FINITE if short in ("Grid", "BruteForce") else SPACE
        optimizer = OptunaOptimizer(sampler=name, **_options(short))
        optimizer.setup(space, [Objective("loss")], 3)
        count = 6 if short == "GP" else 12  # a tenth of a second each
        trials = play(optimizer, count, bowl)
        assert len(trials) == count, name
        for trial in trials:
            space.validate(trial.params)
            assert short != "PartialFixed" or trial.params["depth"] == 2
        again = OptunaOptimizer(sampler=short, **_options(short))
        again.setup(space, [Objective("loss")], 3)
        same = [each.params for each in play(again, count, bowl)] == [trial.params for trial in trials]
        assert same, f"{name} goes another way without 'Sampler' in its name"


@pytest.mark.parametrize("sampler", ["TPE", "NSGAII", "NSGAIII", "GP", "Random", "QMC"])
def test_samplers_of_several_objectives(sampler: str) -> None:
    pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    optimizer = OptunaOptimizer(sampler=sampler, **_options(sampler))
    optimizer.setup(SPACE, [Objective("loss"), Objective("speed", "max")], 3)
    for number in range(6):
        [trial] = optimizer.suggest(1)
        SPACE.validate(trial.params)
        trial.number, trial.status = number, Status.COMPLETED
        loss = bowl(trial.params)
        optimizer.observe(trial, Result(loss, values=(loss, -trial.params["depth"])))


def test_pending_trials_keep_tpe_from_the_same_place() -> None:
    """The constant liar: with one good basin known, eight pending suggestions spread wider than eight independent ones."""
    pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    space = SearchSpace({"x": Uniform(-1, 1)})

    def spread(**options: Any) -> float:
        total = 0.0
        for seed in range(6):
            optimizer = OptunaOptimizer(**options)
            optimizer.setup(space, [Objective("loss")], seed)
            play(optimizer, 25, lambda params: (params["x"] - 0.3) ** 2)
            places = sorted(trial.params["x"] for trial in optimizer.suggest(8))
            total += places[-1] - places[0]
        return total

    assert spread() > 1.5 * spread(constant_liar=False)


@pytest.mark.parametrize(
    "name", ["NGOpt", "OnePlusOne", "TwoPointsDE", "PSO", "CMA", "RandomSearch", "ScrHammersleySearch", "TBPSA"]
)
def test_nevergrads_optimizers_by_name(name: str) -> None:
    pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)
    trials = []
    for _ in range(2):
        optimizer = NevergradOptimizer(optimizer=name, budget=20)
        optimizer.setup(SPACE, [Objective("loss")], 3)
        trials.append([trial.params for trial in play(optimizer, 15, bowl)])
    assert trials[0] == trials[1]
    for params in trials[0]:
        SPACE.validate(params)


def test_a_one_shot_method_ends_with_its_budget() -> None:
    pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)
    optimizer = NevergradOptimizer(SPACE, "ScrHammersleySearch", budget=7)
    assert len(play(optimizer, 20, bowl)) == 7
    restored = NevergradOptimizer(SPACE, "ScrHammersleySearch", budget=7)
    restored.restore(copies(play(NevergradOptimizer(SPACE, "ScrHammersleySearch", budget=7), 5, bowl)))
    assert len(restored.suggest(9)) == 2


def test_without_a_budget_a_continuous_space_is_searched_too() -> None:
    """NGOpt chooses its method by the budget: without one Nevergrad itself fails an assertion there."""
    pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)
    space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
    assert len(play(NevergradOptimizer(space), 5, lambda params: params["x"])) == 5


@pytest.mark.parametrize(("dimensions", "budget", "workers"), [(1, None, 1), (1, 100, 4), (2, 100, 4), (3, 300, 1)])
def test_ngopt_goes_on_where_numpy_does_not_let_its_metamodel_compute(
    dimensions: int, budget: int | None, workers: int
) -> None:
    """From the 13th trial on a metamodel would make of an array of one number a float."""
    pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)
    space = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(dimensions)})
    optimizer = NevergradOptimizer(space, budget=budget, num_workers=workers)
    trials = play(optimizer, 45, lambda params: sum((x - 0.3) ** 2 for x in params.values()))
    assert len(trials) == 45
    assert min(trial.score or 1.0 for trial in trials) < 0.02


def test_a_metamodel_that_was_named_is_refused_at_setup_where_numpy_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)
    monkeypatch.setattr("sweep.optimizers.nevergrad._floats_arrays", lambda: False)
    with pytest.raises(StrategyError, match=r"'MetaModel' among them, .*numpy below 2\.4.*'CMA'"):
        NevergradOptimizer(optimizer="MetaModel").setup(SPACE, [Objective("loss")], 0)
    ng = pytest.importorskip("nevergrad")

    def model(self: Any) -> Any:
        raise TypeError("only 0-dimensional arrays")

    monkeypatch.setattr(ng.optimizers.base.Optimizer, "ask", model)
    with pytest.raises(StrategyError, match="'Carola1' has a metamodel, perhaps, and these need numpy below"):
        NevergradOptimizer(SPACE, "Carola1").suggest(1)


# Its thread may be dead before it is asked: then Nevergrad warns first, and raises what the thread died of after that.
@pytest.mark.filterwarnings("ignore:Underlying optimizer has already converged")
def test_a_package_that_one_of_nevergrads_needs_is_named() -> None:
    pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)
    if find_spec("poap") is not None:
        pytest.skip("the package is installed")
    with pytest.raises(StrategyError, match=r"(?s)'pysot' needs a package that is not installed .*'poap'"):
        play(NevergradOptimizer(SPACE, "pysot"), 4, bowl)


def test_what_fails_inside_of_nevergrad_is_said_to_be_its(monkeypatch: pytest.MonkeyPatch) -> None:
    ng = pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)

    def fail(self: Any) -> Any:
        raise AssertionError

    optimizer = NevergradOptimizer(SPACE, "OnePlusOne")
    optimizer.suggest(1)
    monkeypatch.setattr(ng.optimizers.base.Optimizer, "ask", fail)
    with pytest.raises(StrategyError, match=r"'OnePlusOne' fails .*AssertionError.*TwoPointsDE"):
        optimizer.suggest(1)
