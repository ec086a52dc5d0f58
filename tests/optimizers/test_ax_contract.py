"""AxOptimizer keeps the contract; in a file of its own, for Ax takes seconds to import."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ax_words import AX

from sweep.errors import UnknownName
from sweep.optimizers import AxOptimizer
from sweep.space import (
    Choice,
    Constant,
    Integer,
    LogInteger,
    LogitUniform,
    LogUniform,
    Normal,
    Ordinal,
    SearchSpace,
    Uniform,
)
from sweep.testing.optimizers import OptimizerContract, play
from sweep.trial import Objective, Result, Status, Trial

pytest.importorskip("ax", reason="the extra 'ax' is not installed", exc_type=ImportError)

pytestmark = AX


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestAx(OptimizerContract):
    budget = 4
    space = SearchSpace(  # without categories, with which BoTorch takes ten times as long
        {
            "lr": LogUniform(1e-4, 1e-1),
            "depth": Integer(1, 3),
            "momentum": Uniform(0, 0.9),
            "kind": Constant("residual"),
            "width": Constant(32),
        }
    )

    def make(self) -> AxOptimizer:
        return AxOptimizer(n_initial=3)


def test_every_kind_of_parameter_and_a_batch() -> None:
    space = SearchSpace(
        {
            "a": Normal(0, 1),
            "b": LogInteger(1, 64),
            "c": Choice(["x", None, 3]),
            "d": Ordinal([1, 10]),
            "e": Integer(0, 8, step=4, when=("c", ["x"])),
        }
    )
    optimizer = AxOptimizer(space, n_initial=4)
    play(optimizer, 4, lambda params: params["b"] + (params["c"] == "x"))
    batch = optimizer.suggest(2)
    assert len(batch) == 2
    for trial in batch:
        space.validate(trial.params)


def test_constraints_and_acquisition_keep_the_search_where_it_is_feasible() -> None:
    space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})

    def too_low(trial: Trial) -> list[float]:
        return [0.5 - trial.params["x"]]

    optimizer = AxOptimizer(space, acquisition="EI", n_initial=6, constraints_func=too_low)
    play(optimizer, 6, lambda params: params["x"] + params["y"])
    [trial] = optimizer.suggest(1)
    assert trial.params["x"] > 0.4


def test_a_restored_history_costs_no_model_and_a_batch_costs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client of Ax, and so one fit, however many trials there have been and however many are asked for."""
    made: list[int] = []
    client = AxOptimizer._client

    def counted(self: AxOptimizer, *arguments: Any) -> Any:
        made.append(1)
        return client(self, *arguments)

    monkeypatch.setattr(AxOptimizer, "_client", counted)
    space = SearchSpace({"x": Uniform(0, 1), "share": LogitUniform(0.1, 0.99)})
    done: Any = {"status": Status.COMPLETED, "score": 0.5, "values": (0.5,)}
    history = [Trial({"x": n / 12, "share": 0.5}, number=n, **done) for n in range(12)]
    optimizer = AxOptimizer(n_initial=3)
    optimizer.setup(space, [Objective("loss")], 0)
    optimizer.restore(history)
    assert made == []
    batch = optimizer.suggest(3)
    assert len(batch) == 3
    assert made == [1]
    assert all(space.contains(trial.params) for trial in batch)


def test_several_objectives() -> None:
    """Both are best along x = 0."""
    space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
    optimizer = AxOptimizer(n_initial=6)
    optimizer.setup(space, [Objective("f"), Objective("g", "max")], 0)
    for trial in optimizer.suggest(6):
        trial.status = Status.COMPLETED
        x, y = trial.params["x"], trial.params["y"]
        optimizer.observe(trial, Result(x + y, values=(x + y, y - x)))
    assert optimizer.suggest(1)[0].params["x"] < 0.3


def test_an_unknown_acquisition_is_named_at_once() -> None:
    with pytest.raises(UnknownName, match="EHVI, EI, NEHVI"):
        AxOptimizer(acquisition="improvement")
