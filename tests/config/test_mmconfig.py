"""OpenMMLab configs: the chain, _delete_, and nothing run without consent."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.config import ADict, read_mm_config
from sweep.errors import ConfigError, ConfigFileMissing

BASE = """
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9))
model = dict(backbone=dict(type='ResNet', depth=50), neck=None)
"""


def lay(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_chain_merges_and_delete_replaces(tmp_path: Path) -> None:
    lay(
        tmp_path,
        base=BASE,
        schedule="max_epochs = 12\nlr = 0.02 / 8\nsteps = [8] + [11]\n",
        child=(
            "_base_ = ['./base.py', './schedule.py']\n"
            "model = dict(backbone=dict(depth=101))\n"
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=1e-4))\n"
        ),
    )
    assert read_mm_config(tmp_path / "child.py") == {
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-4}},
        "model": {"backbone": {"type": "ResNet", "depth": 101}, "neck": None},
        "max_epochs": 12,
        "lr": 0.0025,
        "steps": [8, 11],
    }


def test_a_chain_of_three_files_and_names(tmp_path: Path) -> None:
    lay(
        tmp_path,
        a="size = (3, -1)\npipe = [dict(scale=size), dict(**dict(flip=not False))]\n",
        b="_base_ = 'a.py'\nx: int = 2**10\n",
        c="'''A docstring.'''\n_base_ = 'b.py'\nfirst = size = [1]\nitem = dict(k=[5, 6])['k'][1]\n",
    )
    found = read_mm_config(tmp_path / "c.py")
    assert found == {"size": [1], "pipe": [{"scale": (3, -1)}, {"flip": True}], "x": 1024, "first": [1], "item": 6}


def test_loads_into_a_config(tmp_path: Path) -> None:
    lay(tmp_path, base=BASE)
    config = ADict(seed=1)
    config.load_mm_config(tmp_path / "base.py")
    assert config.model.backbone.depth == 50
    assert config.seed == 1


@pytest.mark.parametrize(
    "text",
    [
        "import os\nx = 1\n",
        "x = __import__('os').getcwd()\n",
        "x = open('touched', 'w')\n",
        "def f():\n    return 1\nx = f()\n",
        "for i in range(3):\n    x = i\n",
        "x = 10 ** 10 ** 10\n",
        "x = 'a' * 10**9\n",
        "dict = print\nx = dict(a=1)\n",
        "x = [i for i in (1, 2)]\n",
    ],
)
def test_nothing_runs_without_consent(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lay(tmp_path, bad="ok = 1\n" + text)
    with pytest.raises(ConfigError, match=r"bad.py:\d+: .*execute=True"):
        read_mm_config("bad.py")
    assert not (tmp_path / "touched").exists()


def test_runs_with_consent(tmp_path: Path) -> None:
    lay(tmp_path, run="import math\ndef double(x):\n    return 2 * x\nlr = double(math.pi)\n")
    assert read_mm_config(tmp_path / "run.py", execute=True) == {"lr": pytest.approx(6.283185307)}


def test_circles_missing_bases_and_wrong_ones(tmp_path: Path) -> None:
    lay(tmp_path, a="_base_ = 'b.py'\n", b="_base_ = 'a.py'\n", c="_base_ = 'd.py'\n", e="_base_ = 3\n", f="x = (\n")
    with pytest.raises(ConfigError, match=r"a.py → b.py → a.py"):
        read_mm_config(tmp_path / "a.py")
    with pytest.raises(ConfigFileMissing, match=r"d.py"):
        read_mm_config(tmp_path / "c.py")
    with pytest.raises(ConfigError, match="_base_ is to be"):
        read_mm_config(tmp_path / "e.py")
    with pytest.raises(ConfigError, match=r"f.py:1"):
        read_mm_config(tmp_path / "f.py")


def test_the_same_base_twice_is_no_circle(tmp_path: Path) -> None:
    lay(tmp_path, base="x = 1\n", a="_base_ = 'base.py'\n", b="_base_ = 'base.py'\n", c="_base_ = ['a.py', 'b.py']\n")
    assert read_mm_config(tmp_path / "c.py") == {"x": 1}


def test_agrees_with_ato(tmp_path: Path) -> None:
    ato = pytest.importorskip("ato.adict")
    lay(tmp_path, base=BASE, child="_base_ = './base.py'\nmodel = dict(backbone=dict(_delete_=True, type='ViT'))\n")
    path = tmp_path / "child.py"
    assert read_mm_config(path) == ato.ADict.from_mm_config(str(path)).to_dict()


def test_delete_never_shows_where_nothing_is_replaced(tmp_path: Path) -> None:
    """Ato leaves a ``_delete_`` in place where the base has no such key, and in deeper levels."""
    lay(tmp_path, only="model = dict(_delete_=True, head=dict(_delete_=True, n=1), hooks=[dict(_delete_=True, m=2)])\n")
    assert read_mm_config(tmp_path / "only.py") == {"model": {"head": {"n": 1}, "hooks": [{"m": 2}]}}
