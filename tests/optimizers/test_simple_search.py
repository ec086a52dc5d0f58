"""Random, grid and Sobol search, and the lazy face of the package."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sweep.optimizers
from sweep.errors import SpaceError, StrategyError
from sweep.optimizers import GridOptimizer, RandomOptimizer, SobolOptimizer
from sweep.optimizers.seeding import own_seed
from sweep.space import Choice, Integer, LogUniform, SearchSpace, Uniform
from sweep.trial import Objective, Result, Source, Status, Trial

SPACE = SearchSpace({"a": Integer(1, 4), "b": Choice(["x", "y", None]), "c": Uniform(0, 1, num=3, when=("b", "x"))})


def ready(optimizer: GridOptimizer) -> GridOptimizer:
    optimizer.setup(SPACE, [Objective()], 0)
    return optimizer


def names(trials: list[Trial]) -> list[str]:
    return sorted(repr(trial.params) for trial in trials)


WHOLE = sorted(repr(params) for params in SPACE.grid())


@given(batches=st.lists(st.integers(0, 5), max_size=30), cut=st.integers(0, 25), lost=st.sets(st.integers(0, 20)))
@settings(max_examples=50, deadline=None)
def test_grid_gives_each_combination_once_across_batches_failures_and_a_restart(
    batches: list[int], cut: int, lost: set[int]
) -> None:
    optimizer = ready(GridOptimizer())
    found: list[Trial] = []
    for size in [*batches, *[3] * 20]:
        if len(found) >= cut:
            optimizer, cut = ready(GridOptimizer()), 10**6
            optimizer.restore(found)
        for trial in optimizer.suggest(size):
            trial.number = len(found)
            failed = trial.number in lost
            trial.status = Status.FAILED if failed else Status.COMPLETED
            optimizer.observe(trial, Result(math.nan if failed else 0.0, failure="raised" if failed else None))
            found.append(trial)
    assert names(found) == WHOLE


def test_grid_leaves_out_what_was_enqueued_or_completed_earlier() -> None:
    first, second, third, *_ = SPACE.grid()
    optimizer = ready(GridOptimizer())
    optimizer.restore(
        [
            Trial(first, source=Source.EARLIER, status=Status.COMPLETED, score=1.0),
            Trial(second, source=Source.EARLIER, status=Status.FAILED),
            Trial(third, source=Source.ENQUEUED, number=0),
        ]
    )
    found = optimizer.suggest(100)
    assert len(found) == len(WHOLE) - 2
    assert second in [trial.params for trial in found]


def test_grid_needs_a_number_of_values() -> None:
    with pytest.raises(SpaceError, match="num="):
        GridOptimizer(SearchSpace({"lr": LogUniform(1e-3, 1)})).suggest(1)


def test_random_follows_the_distributions() -> None:
    optimizer = RandomOptimizer(SPACE)
    drawn = [trial.params for trial in optimizer.suggest(3000)]
    for value in (1, 2, 3, 4):
        share = sum(params["a"] == value for params in drawn) / len(drawn)
        assert abs(share - 0.25) < 0.04  # 5 standard errors
    with_c = [params["c"] for params in drawn if params["b"] == "x"]
    assert {"x", "y", None} == {params["b"] for params in drawn}
    assert abs(sum(with_c) / len(with_c) - 0.5) < 0.05


def test_random_continues_after_its_own_trials_only() -> None:
    whole = [trial.params for trial in RandomOptimizer(SPACE).suggest(8)]
    optimizer = RandomOptimizer(SPACE)
    history = [Trial(params, source=Source.OPTIMIZER) for params in whole[:5]]
    optimizer.restore([Trial(whole[0], source=Source.EARLIER), *history, Trial(whole[0], source=Source.ENQUEUED)])
    assert [trial.params for trial in optimizer.suggest(3)] == whole[5:]


def test_sobol_is_more_even_than_random() -> None:
    """The star discrepancy of 64 points in 2 dimensions, against pseudo-random ones."""
    space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})

    def worst(trials: list[Trial]) -> float:
        points = [(trial.params["x"], trial.params["y"]) for trial in trials]
        corners = [(i / 16, j / 16) for i in range(1, 17) for j in range(1, 17)]
        return float(max(abs(sum(x < a and y < b for x, y in points) / len(points) - a * b) for a, b in corners))

    for seed in range(5):
        quasi, pseudo = SobolOptimizer(), RandomOptimizer()
        quasi.setup(space, [Objective()], seed)
        pseudo.setup(space, [Objective()], seed)
        assert worst(quasi.suggest(64)) < 0.06 < worst(pseudo.suggest(64))


def test_sobol_goes_on_in_its_sequence() -> None:
    """Past the first chunk, and in a space of constants only."""
    whole = [trial.params for trial in SobolOptimizer(SPACE).suggest(150)]
    optimizer = SobolOptimizer(SPACE)
    optimizer.restore([Trial(params) for params in whole[:100]])
    assert [trial.params for trial in optimizer.suggest(50)] == whole[100:]
    assert SobolOptimizer(SearchSpace({"a": 1})).suggest(2)[1].params == {"a": 1}


def test_without_a_space_the_remedy_is_named() -> None:
    with pytest.raises(StrategyError, match=r"RandomOptimizer\(space\)"):
        RandomOptimizer().suggest(1)


def test_seeds_of_different_suggestions_differ() -> None:
    seeds = {own_seed(seed, index, purpose) for seed in range(9) for index in range(9) for purpose in ("a", "b")}
    assert len(seeds) == 9 * 9 * 2
    assert all(0 <= seed < 2**160 for seed in (own_seed(-1, 0), own_seed(2**70, 5)))


def test_the_face_lists_what_it_has() -> None:
    assert list(sweep.optimizers.__all__) == sorted(sweep.optimizers.__all__)
    assert set(sweep.optimizers.__all__) <= set(dir(sweep.optimizers))
    for name in sweep.optimizers.__all__:
        assert getattr(sweep.optimizers, name).__name__ == name
    with pytest.raises(AttributeError, match="did you mean 'OptunaOptimizer'"):
        sweep.optimizers.OptunaOptimiser  # noqa: B018  # looking it up is the test


def test_importing_the_optimizers_imports_no_package() -> None:
    """Random and grid search work without numpy; no other file imports one before it is used."""
    program = (
        "import sys\n"
        "sys.modules['numpy'] = None\n"
        "import sweep.optimizers as o\n"
        "from sweep.space import SearchSpace, Integer\n"
        "for name in o.__all__: getattr(o, name)\n"
        "space = SearchSpace({'a': Integer(1, 3)})\n"
        "assert o.RandomOptimizer(space).suggest(1) and o.GridOptimizer(space).suggest(1)\n"
        "heavy = {'optuna', 'scipy', 'ax', 'torch', 'nevergrad', 'pandas', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in ('Sobol', 'Bayesian', 'Protein', 'Optuna', 'Nevergrad', 'Ax'):\n"
        "    try: getattr(o, name + 'Optimizer')(space).suggest(1)\n"
        "    except sweep.errors.MissingExtra as error: assert 'sweep[' in str(error), error\n"
        "    else: raise AssertionError(name)\n"
    ).replace("import sys\n", "import sys\nimport sweep.errors\n", 1)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
