"""The benchmark of the engine runs and measures what it says (how fast is no test's business)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("part", "figures"),
    [
        ("stages", ["plain async stage", "checkpointed stage", "memory of a loop", "memory of a map", "resume of a map"]),
        ("trials", ["sync objective", "bytes of the store", "nested sweeps", "ASHA inline", "async trials", "suggestion, Random"]),
        ("strategies", ["suggestion and report, Random", "next of ASHA", "next of Hyperband"]),
        ("starts", ["import sweep", "from sweep import Pipeline"]),
    ],
)
def test_quick_run_prints_every_figure(part: str, figures: list[str]) -> None:
    command = [sys.executable, str(BENCHMARKS / "engine.py"), "--quick", "--only", part]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # our own script
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    for figure in figures:
        found = [row for row in rows if figure in row[1]]
        assert found, f"no row about {figure!r} in:\n{done.stdout}"
        assert all(re.match(r"\d", row[2].strip()) for row in found), found
