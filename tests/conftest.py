"""Fixtures of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from dying import Deaths


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the crash harness and the simulation run longer than they do by default."""
    parser.addoption("--crash-rounds", type=int, default=1, help="rounds of random kills in tests/crash")
    parser.addoption("--crash-every", action="store_true", help="kill at every statement in tests/crash, not at some")
    parser.addoption("--simulations", type=int, default=100, help="stories in tests/test_simulation.py")
    parser.addoption("--simulation-seed", type=int, default=None, help="live this one story alone")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test on both event loops."""
    return str(request.param)


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Deaths:
    """Deaths of the process at a transaction of its store."""
    return Deaths(monkeypatch)


@pytest.fixture(autouse=True)
def store_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default store of each test: a file of its own, never the developer's."""
    path = tmp_path / "sweep.db"
    monkeypatch.setenv("SWEEP_STORE", str(path))
    for name in ("SWEEP_RESUME", "SWEEP_ENTRY", "SWEEP_QUIET", "SWEEP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return path
