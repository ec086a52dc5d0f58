"""The documentation of the configuration names tests that exist, and its names can be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sweep.config

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_docs_name_exists() -> None:
    here = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    rows = [line for line in (ROOT / "docs" / "config.md").read_text().splitlines() if line.startswith("| ☑")]
    assert len(rows) > 20
    for row in rows:
        cell = row.rsplit("|", 2)[1]
        files = re.findall(r"test_\w+\.py", cell)
        assert files, row
        for name in re.findall(r"\b(test_\w+)(?!\.py)\b(?!\.py)", cell):
            assert any(f"def {name}(" in here[file] for file in files), (row, name)


def test_the_public_names() -> None:
    assert sweep.config.__all__ == sorted(sweep.config.__all__, key=lambda name: (not name[0].isupper(), name))
    for name in sweep.config.__all__:
        assert name in dir(sweep.config)
        assert getattr(sweep.config, name).__doc__
    with pytest.raises(AttributeError, match="did you mean 'MultiScope'"):
        sweep.config.MultiScop  # noqa: B018  # what is tested


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, sweep.config as c; c.Scope, c.ADict; print(*[m for m in ('pydantic', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # this interpreter
    assert "pydantic" not in done.stdout
    assert "yaml" not in done.stdout


def test_the_example_runs() -> None:
    done = subprocess.run(  # our own example
        [sys.executable, "-W", "error", str(ROOT / "examples" / "config_scopes.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert "training resnet101-152 on cifar10 with lr=0.01" in done.stdout
    assert "set but never read: model.backbone, model.depth, data.workers" in done.stdout
