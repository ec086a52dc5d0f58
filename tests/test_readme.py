"""Every Python block of the README runs, and CI runs the README's own test command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number: int, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(BLOCKS[number], encoding="utf-8")
    environment = {**os.environ, "SWEEP_STORE": str(tmp_path / "sweep.db"), "SWEEP_QUIET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a block shows something"


def test_first_screen_shows_code_and_length() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert any(line.startswith("```python") for line in lines[:10])


def test_ci_runs_exactly_the_test_command() -> None:
    commands = re.findall(r"```bash\n(.*?)```", README, re.S)
    assert commands[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_three_level_tree_is_the_one_that_is_printed() -> None:
    """The README's tree is cut, but each of its lines is printed, in that order (times aside)."""
    (shown,) = re.findall(r"```text\n(.*?)```", README, re.S)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "three_levels.py")], capture_output=True, text=True, timeout=120, check=True
    )
    printed = iter(_untimed(done.stdout))
    missing = [line for line in _untimed(shown) if line not in printed]
    assert not missing


def _untimed(text: str) -> list[str]:
    return [re.sub(r"  \d+\.\d+s$", "", line) for line in text.splitlines()]
