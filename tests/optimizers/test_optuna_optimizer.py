"""OptunaOptimizer against Optuna itself, and what it tells the samplers."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweep import MetaExperiment, SweepExperiment
from sweep.errors import ContractError, MissingExtra, StrategyError, UnknownName
from sweep.optimizers import OptunaOptimizer, RandomOptimizer
from sweep.optimizers.seeding import own_seed
from sweep.space import Choice, Integer, LogInteger, LogUniform, Normal, Ordinal, SearchSpace, Uniform
from sweep.testing.optimizers import copies, params_of, play
from sweep.trial import Objective, Reason, Result, Status, Trial

optuna = pytest.importorskip("optuna", reason="the extra 'optuna' is not installed", exc_type=ImportError)
module = pytest.importorskip("sweep.optimizers.optuna")
Axis = pytest.importorskip("sweep.optimizers.optuna_study").Axis

SPACE = SearchSpace({"x": Uniform(-1, 1), "y": LogInteger(1, 100), "z": Choice(["a", "b"])})


def bowl(params: Any) -> float:
    return float(params["x"] ** 2 + math.log10(params["y"]) + (params["z"] == "a"))


def test_tpe_sees_the_same_study_as_a_study_of_optunas_own() -> None:
    """The next suggestion is the one that Optuna makes from the same history and the same random numbers."""
    ours = OptunaOptimizer(SPACE)
    history = play(ours, 25, bowl)
    study = ours._ready()._study
    storage = optuna.storages.InMemoryStorage()
    theirs = optuna.create_study(storage=storage)
    for trial in history:
        distributions = {name: Axis(SPACE[name]).distribution for name in SPACE}
        theirs.add_trial(
            optuna.trial.create_trial(params=dict(trial.params), distributions=distributions, value=trial.score)
        )
    [found] = ours.suggest(1)
    # a sampler whose generators are where ours were
    fresh = optuna.samplers.TPESampler(seed=0)
    seed = own_seed(0, 25, "optuna")
    module._reseed(fresh, [(seed >> shift) % 2**32 for shift in range(0, 160, 32)])
    theirs.sampler = fresh
    distributions = {name: Axis(SPACE[name]).distribution for name in SPACE}
    assert found.params == theirs.ask(distributions).params
    assert len(study.trials) == 26


def test_states_are_told_as_optuna_knows_them() -> None:
    optimizer = OptunaOptimizer(SPACE)
    trials = optimizer.suggest(6)
    for number, trial in enumerate(trials):
        trial.number = number
    ends = [
        (Status.COMPLETED, Result(1.0, step=9)),
        (Status.PAUSED, Result(2.0, step=3)),
        (Status.STOPPED, Result(3.0, step=4)),
        (Status.FAILED, Result(math.nan, failure="raised")),
        (Status.COMPLETED, Result(math.inf)),
    ]
    for trial, (status, result) in zip(trials, ends, strict=False):
        trial.status = status
        optimizer.observe(trial, result)
    state = optuna.trial.TrialState
    seen = optimizer._ready()._study.trials
    assert [trial.state for trial in seen] == [
        state.COMPLETE,
        state.PRUNED,
        state.PRUNED,
        state.FAIL,
        state.FAIL,
        state.RUNNING,
    ]
    assert seen[1].intermediate_values == {3: 2.0}


def test_a_lost_host_says_nothing() -> None:
    optimizer = OptunaOptimizer(SPACE)
    [trial] = optimizer.suggest(1)
    trial.status, trial.reason = Status.FAILED, Reason.LOST
    optimizer.observe(trial, Result(math.nan, failure="host lost"))
    assert optimizer._history.records[0].state.value == "void"


@pytest.mark.parametrize("sampler", ["TPE", "CmaEs", "NSGAII", "Random"])
def test_restore_after_every_prefix(sampler: str) -> None:
    options: dict[str, Any] = {"CmaEs": {"popsize": 4}, "NSGAII": {"population_size": 4}}.get(sampler, {})
    whole = play(OptunaOptimizer(SPACE, sampler, **options), 20, bowl)
    for cut in range(0, 20, 3):
        optimizer = OptunaOptimizer(SPACE, sampler, **options)
        optimizer.restore(copies(whole[:cut]))
        assert params_of(play(optimizer, 20 - cut, bowl, whole[:cut])) == params_of(whole)


def test_the_gaussian_process_sampler() -> None:
    """One suggestion, for it takes a tenth of a second each; and the same one after a restart."""
    space = SearchSpace({"x": Uniform(-1, 1)})
    optimizer = OptunaOptimizer(space, "GP", n_startup_trials=4)
    history = play(optimizer, 5, lambda params: params["x"] ** 2)
    restored = OptunaOptimizer(space, "GP", n_startup_trials=4)
    restored.restore(copies(history))
    assert params_of(optimizer.suggest(1)) == params_of(restored.suggest(1))


@pytest.mark.parametrize("sampler", ["Grid", "BruteForce"])
def test_finite_samplers_end(sampler: str) -> None:
    space = SearchSpace({"a": Integer(1, 3), "b": Ordinal(["low", "high"])})
    found = params_of(play(OptunaOptimizer(space, sampler), 50, lambda params: 0.0))
    assert sorted(map(repr, found)) == sorted(repr(params) for params in space.grid())


def test_constraints_are_kept_to() -> None:
    """Where only x > 0.5 is feasible TPE goes there, although the score pulls to -1."""
    space = SearchSpace({"x": Uniform(-1, 1)})

    def feasible(trial: Trial) -> list[float]:
        return [0.5 - trial.params["x"]]

    free = play(OptunaOptimizer(space), 60, lambda params: params["x"])
    bound = play(OptunaOptimizer(space, constraints_func=feasible), 60, lambda params: params["x"])
    near, far = (sum(trial.params["x"] > 0.4 for trial in trials[30:]) for trials in (bound, free))
    assert near > 15 > 5 > far


@pytest.mark.parametrize("sampler", ["TPE", "GP", "NSGAII", "CmaEs"])
def test_what_a_sweeps_constraint_refuses_is_learned(sampler: str) -> None:
    """The better half of the square is infeasible, and neither parameter alone tells: no sampler insists on it."""
    asked: list[float] = []

    def half(params: Any) -> float:
        asked.append(1 - params["x"] - params["y"])
        return asked[-1]

    sweep = SweepExperiment(
        lambda x, y: x + y, {"x": Uniform(0, 1), "y": Uniform(0, 1)}, optimizer=OptunaOptimizer(sampler=sampler),
        constraints=[half], seed=4, name=sampler,
    )  # fmt: skip
    result = sweep.run(13 if sampler == "GP" else 30)
    assert all(trial.params["x"] + trial.params["y"] >= 1 for trial in result.trials)
    assert sum(value > 0 for value in asked) < 4 * len(result.trials)
    assert result.best_score < 1.3


def test_constraints_of_a_later_result_replace_the_earlier() -> None:
    """A trial that pauses feasible and ends infeasible is infeasible, and nobody warns of it."""
    optimizer = OptunaOptimizer(SPACE, constraints_func=lambda trial: [trial.metrics["over"]])
    [trial] = optimizer.suggest(1)
    for number, (status, over) in enumerate([(Status.PAUSED, -1.0), (Status.COMPLETED, 2.0)]):
        trial.number, trial.status, trial.metrics, trial.step = 0, status, {"over": over}, number + 1
        optimizer.observe(trial, Result(0.5, step=number + 1))
        [told] = optimizer._study._storage.trials  # type: ignore[union-attr]  # it has been asked
        assert list(told.constraints.values()) == [over]


def test_several_objectives_in_different_directions() -> None:
    """Minimise x, maximise 1 - y: both to 0."""
    space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
    optimizer = OptunaOptimizer(n_startup_trials=8)
    optimizer.setup(space, [Objective("x"), Objective("y", "max")], 1)
    found = []
    for _ in range(60):
        [trial] = optimizer.suggest(1)
        x, y = trial.params["x"], 1 - trial.params["y"]
        trial.status = Status.COMPLETED
        optimizer.observe(trial, Result(x, values=(x, y)))
        found.append(trial.params)
    late = found[40:]
    assert sum(params["x"] + params["y"] for params in late) / len(late) < 0.6  # 1 if it were random
    with pytest.raises(StrategyError, match="2 objectives"):
        optimizer.observe(optimizer.suggest(1)[0], Result(1.0))


def test_conditional_parameters_are_drawn_where_they_exist() -> None:
    space = SearchSpace({"kind": Choice(["a", "b"]), "depth": Integer(1, 9, when=("kind", "a")), "w": Normal(0, 1)})
    trials = play(OptunaOptimizer(space), 30, lambda params: params.get("depth", 5))
    assert all(("depth" in trial.params) == (trial.params["kind"] == "a") for trial in trials)


@pytest.mark.parametrize(
    "part",
    [
        Choice([1, 1.0, True]),
        Choice([[64, 64], {"a": 1}, "x"]),
        Ordinal([16, 32, 48]),
        Integer(3, 20, step=5),
        LogUniform(1e-9, 1e9),
    ],
)
def test_values_survive_the_way_there_and_back(part: Any) -> None:
    axis = Axis(part)
    for u in (0.0, 0.2, 0.5, 0.9, 1.0):
        value = part.from_unit(u)
        inside = axis.distribution.to_external_repr(axis.distribution.to_internal_repr(axis.encode(value)))
        assert part.contains(axis.decode(inside))
        assert axis.decode(inside) == pytest.approx(value) if isinstance(value, float) else axis.decode(inside) == value


def test_what_is_wrong_is_named() -> None:
    """At construction, so that an experiment's check finds it too; a value that a sampler refuses, at ``setup``."""
    with pytest.raises(UnknownName, match="did you mean 'CmaEs'"):
        OptunaOptimizer(SPACE, "CmaES")
    with pytest.raises(StrategyError, match=r"TPESampler has no option 'population'; it takes .*n_startup_trials"):
        OptunaOptimizer(SPACE, "TPE", population=3)
    with pytest.raises(StrategyError, match="did you mean 'n_startup_trials'"):
        OptunaOptimizer(SPACE, n_startup_trails=3)
    with pytest.raises(StrategyError, match=r"NSGAIISampler refuses its options: .*population_size"):
        OptunaOptimizer(SPACE, "NSGAII", population_size=1).suggest(1)
    for wrong in (3, optuna.samplers.TPESampler):
        with pytest.raises(StrategyError, match="expected a name, such as 'TPE', or an Optuna sampler"):
            OptunaOptimizer(SPACE, wrong)
    with pytest.raises(StrategyError, match="drop"):
        OptunaOptimizer(SPACE, optuna.samplers.TPESampler(), n_startup_trials=3)


def test_an_experiment_over_sweeps_checks_the_options_of_a_sampler_in_its_space() -> None:
    meta = MetaExperiment(
        SweepExperiment, {"optimizer.n_startup_trails": Integer(5, 30)}, optimizer=RandomOptimizer(), budget=2,
        fixed={"objective": lambda x: x, "search_space": {"x": Uniform(0, 1)}, "optimizer": OptunaOptimizer},
    )  # fmt: skip
    with pytest.raises(ContractError, match="no option 'n_startup_trails'; did you mean 'n_startup_trials'"):
        meta.check()


def test_a_package_that_a_sampler_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise ImportError("no cmaes", name="cmaes")

    monkeypatch.setattr(optuna.samplers.CmaEsSampler, "__init__", refuse)
    with pytest.raises(MissingExtra, match=r"'cmaes'.*sweep\[optuna\]"):
        OptunaOptimizer(SPACE, "CmaEs").suggest(1)
