"""What is wrong is said before anything runs, and in the user's own values."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep import Cache, Pipeline, SweepExperiment, Uniform
from sweep.errors import ContractError, ContractViolation, ResumeRefused


def cached(ran: list[str]) -> Pipeline:
    """Return stages of which only the second is cached."""
    return (
        Pipeline(x=int)
        .stage("first", lambda x: ran.append("first"))
        .stage("second", lambda x: x + 1)
        .through(y=int, cache=Cache(ttl=60))
    )


@pytest.mark.parametrize("nested", [False, True])
def test_a_cache_without_a_store_is_refused_before_anything_runs(nested: bool, store_path: Path) -> None:
    ran: list[str] = []
    inner = cached(ran)
    pipeline = Pipeline(x=int).stage("zeroth", lambda x: ran.append("zeroth")).stage("in", inner) if nested else inner
    with pytest.raises(ContractError, match=r"stage 'second'.*cache= shares outputs through a store"):
        pipeline.run(x=1)
    assert ran == []
    pipeline.run(x=1, name="kept")
    assert ran[-1] == "first"


def test_a_metric_that_is_no_name_is_refused() -> None:
    with pytest.raises(ContractError, match="metric=3: expected a name, a list of names, or None"):
        SweepExperiment(lambda x: x, {"x": Uniform(0, 1)}, metric=3)  # type: ignore[arg-type]  # the mistake


def test_an_input_that_forbids_a_resume_is_told_by_its_values(store_path: Path) -> None:
    def fail(n: int) -> int:
        raise ZeroDivisionError

    pipeline = Pipeline(n=int, big=list[int]).stage("a", fail).through(x=int)
    with pytest.raises(ZeroDivisionError):
        pipeline.run(n=1, big=[1], name="told")
    with pytest.raises(ResumeRefused, match=r"inputs\.n: 1 -> 2") as caught:
        pipeline.run(n=2, big=[1], name="told", resume="must")
    assert "big" not in str(caught.value)


def test_a_key_too_many_is_told_with_each_known_one_once() -> None:
    pipeline = Pipeline(n=int).stage("a", lambda n: {"x": 1, "y": 2, "zzz": 3}).through(x=int, y=int)
    with pytest.raises(ContractViolation, match=r"known are x, y, n(?!,)"):
        pipeline.run(n=1)
