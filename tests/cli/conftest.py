"""A directory of one's own with a file to run in it, and the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import WORK, Cli, forget
from click.testing import CliRunner, Result

from sweep.cli.app import app


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty directory that has ``work.py``; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in ("SWEEP_STORE", "SWEEP_RESUME", "SWEEP_ENTRY", "SWEEP_QUIET", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "work.py").write_text(WORK)
    known = set(sys.modules)
    yield tmp_path
    forget(known)


@pytest.fixture
def cli(work: Path) -> Cli:
    """Call ``sweep WORDS…`` in this process; every call imports the user's files afresh."""

    def call(*words: str, code: int = 0) -> Result:
        known = set(sys.modules)
        result = CliRunner().invoke(app, list(words), prog_name="sweep")
        forget(known)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        return result

    return call
