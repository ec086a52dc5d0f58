"""The house rules that a machine can check: types, lint, the public face, import costs of the layout."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import sweep
import sweep.config
import sweep.executors
import sweep.experiments
import sweep.optimizers
import sweep.schedulers

ROOT = Path(__file__).parents[1]

LAYERS = [
    {"cli", "dashboard", "testing", "__main__"},
    {"analysis", "tools"},
    {"experiments"},
    {"pipeline", "executors", "training"},
    {"optimizers", "schedulers", "tracker"},
    {"store"},
    {"space", "trial", "process", "config", "context"},
    {"registry", "faces", "fingerprint", "clock", "threads", "deferred", "turns"},
    {"errors"},
]
SIBLINGS_APART = [{"pipeline", "executors"}, {"optimizers", "schedulers"}, {"optimizers", "tracker"}]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_types_are_strict() -> None:
    done = run("mypy", "sweep")
    assert done.returncode == 0, done.stdout


def test_lint_is_clean() -> None:
    done = run("ruff", "check", "sweep", "tests", "examples", "benchmarks")
    assert done.returncode == 0, done.stdout


def test_public_names_exist_and_are_sorted() -> None:
    for module in (sweep, sweep.config, sweep.executors, sweep.experiments, sweep.optimizers, sweep.schedulers):
        assert sorted(module.__all__) == list(module.__all__), module.__name__
        for name in module.__all__:
            assert getattr(module, name) is not None, f"{module.__name__}.{name}"


def parts_imported(path: Path) -> set[str]:
    """Return the first-level parts of sweep that a file imports, lazy and typing-only imports too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "sweep" else [f"sweep.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("sweep.")}
    return found


def test_no_arrow_points_up_and_siblings_do_not_know_each_other() -> None:
    level = {part: index for index, parts in enumerate(LAYERS) for part in parts}
    wrong = []
    for path in sorted((ROOT / "sweep").rglob("*.py")):
        part = path.relative_to(ROOT / "sweep").parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for other in parts_imported(path) - {part}:
            if level[other] < level[part] or any({part, other} == pair for pair in SIBLINGS_APART):
                wrong.append(f"{path.relative_to(ROOT)} imports sweep.{other}")
    assert not wrong, wrong


def test_importing_sweep_loads_nothing_heavy() -> None:
    heavy = "('numpy', 'torch', 'pydantic', 'sqlmodel', 'sqlalchemy', 'optuna', 'scipy', 'anyio', 'rich', 'pandas')"
    code = f"import sys, sweep; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout
