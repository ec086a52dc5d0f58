"""Ato's HyperBand face: the same configurations in the same rounds as Ato itself, and over several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep import Ordinal
from sweep.config import ADict, Scope
from sweep.errors import ConfigError
from sweep.experiments import DistributedHyperBand, HyperBand

SPACES = {
    "lr": {"param_type": "FLOAT", "param_range": (1e-5, 1e-1), "num_samples": 20, "space_type": "LOG"},
    "batch_size": {"param_type": "INTEGER", "param_range": (16, 128), "num_samples": 5},
    "model": {"param_type": "CATEGORY", "categories": ["resnet50", "resnet101", "efficientnet_b0"]},
}


def metric(config: Any) -> float:
    """Some number that differs everywhere and changes with the round."""
    names = ["resnet50", "resnet101", "efficientnet_b0"]
    return (
        -abs(config.lr - 0.003) * 10 - names.index(config.model) / 7 - config.batch_size / 999 + config.__num_halved__
    )


@cache
def ato_scope() -> Any:
    """Ato's scopes are one to a name in a process."""
    from ato.scope import Scope as AtoScope

    return AtoScope()


@pytest.mark.parametrize(("rate", "least", "mode"), [(0.3, 3, "max"), (0.5, 10, "min"), (1 / 3, 1, "max")])
def test_rounds_and_winner_are_atos(rate: float, least: int, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ato")
    monkeypatch.setattr(sys, "argv", ["train"])  # Ato evaluates the words of whatever command line there is
    from ato.adict import ADict as AtoDict
    from ato.hyperopt.hyperband import HyperBand as AtoHyperBand

    theirs: Counter[tuple[Any, ...]] = Counter()
    ours: Counter[tuple[Any, ...]] = Counter()

    def note(seen: Counter[tuple[Any, ...]], config: Any) -> float:
        seen[round(config.lr, 6), config.batch_size, config.model, config.__num_halved__] += 1
        return metric(config)

    ato = AtoHyperBand(ato_scope(), AtoDict({k: AtoDict(v) for k, v in SPACES.items()}), rate, least, mode=mode)

    @ato.main
    def train_ato(config: Any) -> float:
        return note(theirs, config)

    expected = train_ato()
    theirs.subtract(  # Ato runs the winner once more at the end
        [
            (
                round(expected.config.lr, 6),
                expected.config.batch_size,
                expected.config.model,
                expected.config.__num_halved__,
            )
        ]
    )
    hyperband = HyperBand(Scope(), SPACES, rate, least, mode=mode)

    @hyperband.main
    def train(config: Any) -> float:
        return note(ours, config)

    found = train()
    assert +ours == +theirs
    assert found.metric == pytest.approx(expected.logs[-2][0].__metric__, abs=1e-6)  # Ato's floats have 32 bits
    assert (found.config.model, found.config.batch_size) == (expected.config.model, expected.config.batch_size)
    assert [len(entries) for entries in found.logs] == hyperband.sizes


def test_the_scopes_config_is_there_and_changed_by_the_configuration_alone() -> None:
    scope = Scope()

    @scope.observe(default=True)
    def defaults(config: Any) -> None:
        config.lr = 1.0
        config.optimizer = ADict(name="sgd", momentum=0.5)
        config.seed = 3

    @scope
    def inner(config: Any) -> float:
        return float(config.lr)

    hyperband = HyperBand(
        scope, {"lr": Ordinal([0.1, 0.2, 0.4]), "optimizer.momentum": Ordinal([0.8, 0.9])}, 0.5, 2, mode="min"
    )

    @hyperband.main
    def train(config: Any, offset: float) -> float:
        assert inner() == config.lr, "what it calls sees the same config"
        assert (config.optimizer.name, config.seed) == ("sgd", 3)
        return float(config.lr + config.optimizer.momentum + offset)

    best = train(offset=10)
    assert (best.config.lr, best.config.optimizer.momentum, best.config.__num_halved__) == (0.1, 0.8, 1)
    assert best.metric == best.config.__metric__ == pytest.approx(10.9)
    assert scope.resolve().lr == 1.0


def test_steps_of_the_rounds_are_the_seeds() -> None:
    spaces = {"lr": {"param_type": "FLOAT", "param_range": (0, 1), "num_samples": 20000}}
    hyperband = HyperBand(Scope(), spaces, halving_rate=0.3, num_min_samples=4)
    steps = hyperband.compute_optimized_initial_training_steps(120_000)
    assert steps == [27, 88, 292, 972, 3240, 10800, 36000, 120000]
    assert len(steps) == hyperband.num_generations()


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(12, 400),
    rate=st.one_of(st.floats(0.05, 0.95), st.sampled_from([0.3, 1 / 3, 0.1, 0.7, 0.29])),
    least=st.integers(1, 12),
    last=st.integers(1, 10**6),
)
def test_the_step_table_has_an_entry_for_every_round(samples: int, rate: float, least: int, last: int) -> None:
    """Counted, where Ato goes by logarithms: as many entries as rounds run, rising to the last step."""
    spaces = {"lr": {"param_type": "FLOAT", "param_range": (0, 1), "num_samples": samples}}
    hyperband = HyperBand(Scope(), spaces, halving_rate=rate, num_min_samples=least)
    steps = hyperband.compute_optimized_initial_training_steps(last)
    assert len(steps) == hyperband.num_generations() == len(hyperband.sizes)
    assert steps == sorted(steps)
    assert steps[-1] == last
    assert steps[0] >= 1
    assert hyperband.sizes == sorted(hyperband.sizes, reverse=True)
    assert all(size >= least for size in hyperband.sizes)


class Gone(BaseException):
    """As if the process had died."""


def test_a_search_that_was_cut_goes_on_where_it_stopped() -> None:
    calls: list[tuple[float, int]] = []
    die = True

    def search() -> Any:
        hyperband = HyperBand(Scope(), {"lr": Ordinal([0.1, 0.2, 0.3, 0.4])}, 0.5, 1, mode="min")

        @hyperband.main
        def train(config: Any) -> float:
            if die and len(calls) == 5:
                raise Gone
            calls.append((config.lr, config.__num_halved__))
            return float(config.lr)

        return train()

    with pytest.raises(Gone):
        search()
    die = False
    assert search().config.lr == 0.1
    assert sorted(calls) == [(0.1, 0), (0.1, 1), (0.1, 2), (0.2, 0), (0.2, 1), (0.3, 0), (0.4, 0)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"halving_rate": 1.0}, "a share between 0 and 1"),
        ({"num_min_samples": 0}, "a whole number >= 1"),
        ({"num_min_samples": 5}, "hold 4 configurations, fewer than num_min_samples=5"),
        ({"mode": "best"}, "'min' or 'max'"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], told: str) -> None:
    arguments: dict[str, Any] = {"halving_rate": 0.5, "num_min_samples": 1, **change}
    with pytest.raises(ConfigError, match=told):
        HyperBand(Scope(), {"lr": Ordinal([1, 2, 3, 4])}, **arguments)


def test_a_rank_outside_the_world_is_refused() -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="rank"):
        DistributedHyperBand(Scope(), {"lr": Ordinal([1, 2])}, 0.5, 1, rank=2, world_size=2)


RANKS = """
import json, os, sys
import torch.distributed as dist
from sweep import Ordinal
from sweep.config import Scope
from sweep.experiments import DistributedHyperBand

rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=rank, world_size=2)
hyperband = DistributedHyperBand(
    Scope(), {"lr": Ordinal([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])}, 0.5, 1, mode="min", rank=rank, world_size=2, backend="pytorch"
)
ran = []

@hyperband.main
def train(config):
    ran.append((config.lr, config.__num_halved__))
    if config.lr == 0.6:
        raise ValueError("too much")
    return config.lr

best = train()
print(json.dumps({"best": best.config.lr, "metric": best.metric, "ran": ran}))
dist.destroy_process_group()
"""


def test_ranks_share_the_rounds_and_agree(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import json

    (tmp_path / "ranks.py").write_text(RANKS)
    environment = {**os.environ, "SWEEP_STORE": str(tmp_path / "s.db"), "SWEEP_QUIET": "1", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "ranks.py"), str(rank), str(tmp_path)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = []
    for process in processes:
        out, err = process.communicate(timeout=50)
        assert process.returncode == 0, err
        told.append(json.loads(out))
    assert [(one["best"], one["metric"]) for one in told] == [(0.1, 0.1)] * 2
    every = sorted(map(tuple, told[0]["ran"] + told[1]["ran"]))
    assert every == [(0.1, 0), (0.1, 1), (0.1, 2), (0.2, 0), (0.2, 1), (0.3, 0), (0.3, 1), (0.4, 0), (0.5, 0), (0.6, 0)]
    assert min(len(one["ran"]) for one in told) >= 3, "both ranks work"
