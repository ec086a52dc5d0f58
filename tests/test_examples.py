"""Every example runs as a user would run it, and prints what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROMISED = {
    "async_objective.py": "1000 trials",
    "bohb.py": "BOHB       best 0.0",
    "config_children.py": "refused: fields.data: 'digits' -> 'mnist'",
    "config_scopes.py": "",
    "contracts_and_hooks.py": "did you mean 'slope'",
    "control_flow.py": "--- start\nfit degree 2\nfit degree 4\nbest degree 3",
    "cost_aware.py": "then 8 trials of at most $1 each: best 0.2",
    "curriculum.py": "3 sweeps inside",
    "custom_strategies.py": "40 trials",
    "hybrid.py": "4 phases",
    "multi_objective.py": "of 150 trials are on the front",
    "my_experiment.py": "best lr 0.00",
    "optimizer_optimizer.py": "5 trials, 0 failed",
    "population.py": "PBTScheduler: distance 0.000",
    "resume_after_crash.py": "total 20",
    "swap_strategies.py": "GridOptimizer-BatchScheduler",
    "three_levels.py": "12 trainings, 12 different ones",
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "quickstart.py"))
def test_example(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SWEEP_")}
    environment["SWEEP_QUIET"] = "1"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert PROMISED.get(name, "") in done.stdout


def test_the_crashed_example_repeats_nothing(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SWEEP_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "resume_after_crash.py")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    work = [line for line in done.stdout.splitlines() if line.startswith(("collect", "learn"))]
    assert len(work) == len(set(work)) == 8, work
