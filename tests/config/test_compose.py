"""compose_hierarchy against hydra.compose on the same directories, and what Hydra does not have."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from sweep.config import ADict, compose_hierarchy
from sweep.errors import ConfigError, ConfigFileMissing

GROUPS = {
    "model/resnet50.yaml": "backbone: resnet50\nlr: 0.1\n",
    "model/resnet101.yaml": "backbone: resnet101\nblocks: [3, 4]\n",
    "data/cifar10.yaml": "dataset: cifar10\nsize: 32\n",
    "data/imagenet.yaml": "dataset: imagenet\nworkers: 16\n",
}

# name: (files, overrides for Hydra, select for us)
CASES: dict[str, tuple[dict[str, str], list[str], dict[str, Any]]] = {
    "plain": ({"config.yaml": "lr: 1e-3\nflag: true\n"}, [], {}),
    "defaults": ({"config.yaml": "defaults:\n  - model: resnet50\n  - data: cifar10\nseed: 1\n"}, [], {}),
    "own values win": ({"config.yaml": "defaults:\n  - model: resnet50\nmodel:\n  lr: 5\n"}, [], {}),
    "self first": ({"config.yaml": "defaults:\n  - _self_\n  - model: resnet50\nmodel:\n  lr: 5\n"}, [], {}),
    "select": (
        {"config.yaml": "defaults:\n  - _self_\n  - model: resnet50\n  - data: cifar10\n"},
        ["model=resnet101", "data=imagenet"],
        {"model": "resnet101", "data": "imagenet"},
    ),
    "select several": (
        {"config.yaml": "defaults:\n  - model: resnet50\n"},
        ["model=[resnet50,resnet101]"],
        {"model": ["resnet50", "resnet101"]},
    ),
    "append": ({"config.yaml": "seed: 1\n"}, ["+model=resnet50"], {"model": "resnet50"}),
    "append to a list": (
        {"config.yaml": "defaults:\n  - data: cifar10\nmodel:\n  lr: 5\n"},
        ["+model=resnet50"],
        {"model": "resnet50"},
    ),
    "append under another name": (
        {"config.yaml": "defaults:\n  - data: cifar10\n"},
        ["+model@net.body=resnet50"],
        {"model@net.body": "resnet50"},
    ),
    "select one of two": (
        {"config.yaml": "defaults:\n  - model@teacher: resnet101\n  - model@student: resnet50\n"},
        ["model@student=resnet101"],
        {"model@student": "resnet101"},
    ),
    "deep relative groups": (
        {
            "config.yaml": "defaults:\n  - server: apache\n  - _self_\nserver: {db: {user: me}}\n",
            "server/apache.yaml": "defaults:\n  - db: mysql\n  - db@cache: sqlite\n  - _self_\nport: 1\n",
            "server/db/mysql.yaml": "defaults:\n  - engine: inno\nuser: root\n",
            "server/db/sqlite.yaml": "# @package _global_.other\nuser: none\n",
            "server/db/engine/inno.yaml": "size: 3\n",
        },
        [],
        {},
    ),
    "several": ({"config.yaml": "defaults:\n  - model:\n    - resnet50\n    - resnet101\n"}, [], {}),
    "null": ({"config.yaml": "defaults:\n  - model: null\n  - data: cifar10\nx: 1\n"}, [], {}),
    "null selected": ({"config.yaml": "defaults:\n  - model: null\n"}, ["model=resnet50"], {"model": "resnet50"}),
    "optional": ({"config.yaml": "defaults:\n  - optional model: none_such\n  - data: cifar10\n"}, [], {}),
    "package in the line": ({"config.yaml": "defaults:\n  - model@net.body: resnet50\n  - _self_\n"}, [], {}),
    "global in the line": ({"config.yaml": "defaults:\n  - model@_global_: resnet50\n"}, [], {}),
    "twice under two names": (
        {"config.yaml": "defaults:\n  - model@teacher: resnet101\n  - model@student: resnet50\n"},
        [],
        {},
    ),
    "header global": (
        {
            "config.yaml": "defaults:\n  - model: resnet50\n  - experiment: big\n",
            "experiment/big.yaml": "# @package _global_\nmodel:\n  lr: 9\nname: big\n",
        },
        [],
        {},
    ),
    "header elsewhere": (
        {"config.yaml": "defaults:\n  - opt: adam\n", "opt/adam.yaml": "\n# @package training.opt\nlr: 1\n"},
        [],
        {},
    ),
    "no header after a comment": (
        {"config.yaml": "defaults:\n  - opt: adam\n", "opt/adam.yaml": "# a word\n# @package _global_\nlr: 1\n"},
        [],
        {},
    ),
    "experiment overrides groups": (
        {
            "config.yaml": "defaults:\n  - model: resnet50\n  - data: cifar10\nseed: 1\n",
            "experiment/big.yaml": (
                "# @package _global_\ndefaults:\n  - override /model: resnet101\n"
                "  - override /data: imagenet\nseed: 2\n"
            ),
        },
        ["+experiment=big"],
        {"experiment": "big"},
    ),
    "nested defaults": (
        {
            "config.yaml": "defaults:\n  - server: apache\n",
            "server/apache.yaml": "defaults:\n  - db: mysql\n  - common\nname: apache\n",
            "server/common.yaml": "port: 80\nname: common\n",
            "server/db/mysql.yaml": "driver: mysql\n",
        },
        [],
        {},
    ),
    "nested absolute": (
        {
            "config.yaml": "defaults:\n  - server: apache\n",
            "server/apache.yaml": "defaults:\n  - /model: resnet50\n  - /data@here: cifar10\nname: apache\n",
        },
        [],
        {},
    ),
    "nested group chosen": (
        {
            "config.yaml": "defaults:\n  - server: apache\n",
            "server/apache.yaml": "defaults:\n  - db: mysql\n",
            "server/db/mysql.yaml": "driver: mysql\n",
            "server/db/sqlite.yaml": "driver: sqlite\n",
        },
        ["server/db=sqlite"],
        {"server/db": "sqlite"},
    ),
    "base config": (
        {"config.yaml": "defaults:\n  - base\n  - _self_\na: 1\n", "base.yaml": "a: 0\nb: {c: 2}\n"},
        [],
        {},
    ),
    "choice by another choice": (
        {
            "config.yaml": "defaults:\n  - data: cifar10\n  - model: resnet50\n  - tuned: ${data}_${model}\n",
            "tuned/cifar10_resnet50.yaml": "lr: 3\n",
            "tuned/imagenet_resnet50.yaml": "lr: 4\n",
        },
        ["data=imagenet"],
        {"data": "imagenet"},
    ),
    "interpolation": (
        {"config.yaml": "defaults:\n  - model: resnet50\nname: run_${model.backbone}\nrate: ${model.lr}\nmust: ???\n"},
        [],
        {},
    ),
    "lists are replaced": (
        {"config.yaml": "defaults:\n  - model: resnet101\nmodel:\n  blocks: [1]\n  extra: null\n"},
        [],
        {},
    ),
    "hydra's own part": (
        {
            "config.yaml": "defaults:\n  - model: resnet50\n  - override hydra/hydra_logging: none\n"
            "hydra:\n  run: {dir: x}\n"
        },
        [],
        {},
    ),
    "text stays text": ({"config.yaml": "day: 2024-01-02\nid: '1e5'\nn: 1e5\non: yes\nt: '12:30'\n"}, [], {}),
}


def lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def by_hydra(root: Path, overrides: list[str]) -> Any:
    pytest.importorskip("hydra")
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra warns of defaults lists without _self_
        with initialize_config_dir(config_dir=str(root), version_base=None):
            return OmegaConf.to_container(compose("config", overrides=overrides), resolve=True)


@pytest.mark.parametrize("name", CASES)
def test_composes_as_hydra_does(name: str, tmp_path: Path) -> None:
    files, overrides, select = CASES[name]
    root = lay(tmp_path, GROUPS | files)
    expected = by_hydra(root, overrides)
    assert compose_hierarchy(root, select=select) == expected
    assert ADict.compose_hierarchy(root, select=select).to_dict() == expected


@pytest.mark.parametrize("name", ["unknown option", "override without group"])
def test_refuses_what_hydra_refuses(name: str, tmp_path: Path) -> None:
    files = {
        "unknown option": "defaults:\n  - model: resnet51\n",
        "override without group": "defaults:\n  - data: cifar10\n  - override model: resnet50\n",
    }
    root = lay(tmp_path, GROUPS | {"config.yaml": files[name]})
    with pytest.raises(Exception, match="model"):
        by_hydra(root, [])
    with pytest.raises(ConfigError, match="model"):
        compose_hierarchy(root)


def test_the_seeds_call(tmp_path: Path) -> None:
    root = lay(tmp_path, GROUPS | {"config.yaml": "seed: 1\n"})
    config = ADict.compose_hierarchy(
        root=str(root),
        config_filename="config",
        select={"model": "resnet50", "data": "imagenet"},
        overrides={"model.lr": 0.01, "data.batch_size": 64},
        required=["model.backbone", "data.dataset"],
        on_missing="warn",
    )
    assert config.model == {"backbone": "resnet50", "lr": 0.01}
    assert config.data == {"dataset": "imagenet", "workers": 16, "batch_size": 64}


def test_files_that_name_their_group_themselves_are_not_nested_twice(tmp_path: Path) -> None:
    root = lay(tmp_path, {"config.yaml": "model: {lr: 1}\n", "model/big.yaml": "model:\n  backbone: big\n"})
    assert compose_hierarchy(root, select={"model": "big"}) == {"model": {"lr": 1, "backbone": "big"}}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("yaml", "depth: 3\n"),
        ("yml", "depth: 3\n"),
        ("json", '{"depth": 3}'),
        ("toml", "depth = 3\n"),
        ("xyz", "depth: 3\n"),
    ],
)
def test_every_format_is_found(suffix: str, text: str, tmp_path: Path) -> None:
    root = lay(tmp_path, {"config.yaml": "", f"model/small.{suffix}": text})
    assert compose_hierarchy(root, select={"model": "small"}) == {"model": {"depth": 3}}


def test_missing_option_names_those_there_are(tmp_path: Path) -> None:
    root = lay(tmp_path, GROUPS | {"config.yaml": "seed: 1\n"})
    with pytest.raises(ConfigFileMissing, match=r"did you mean 'resnet50'.*resnet101"):
        compose_hierarchy(root, select={"model": "resnet5"})
    with pytest.warns(UserWarning, match="resnet5"):
        assert compose_hierarchy(root, select={"model": "resnet5"}, on_missing="warn") == {"seed": 1}


def test_missing_base_config(tmp_path: Path) -> None:
    root = lay(tmp_path, GROUPS)
    with pytest.raises(FileNotFoundError, match="config"):
        compose_hierarchy(root, select={"model": "resnet50"})
    with pytest.warns(UserWarning, match="config"):
        found = compose_hierarchy(root, select={"model": "resnet50"}, on_missing="warn")
    assert found["model"]["lr"] == 0.1


def test_bad_requests(tmp_path: Path) -> None:
    root = lay(tmp_path, GROUPS | {"config.yaml": "optimizer: {name: adam}\nlr: 0.1\n"})
    with pytest.raises(ConfigError, match="did you mean 'optimizer'"):
        compose_hierarchy(root, overrides={"optimzer.name": "sgd"})
    with pytest.raises(ConfigError, match="'lr' is a value"):
        compose_hierarchy(root, overrides={"lr.x": 1})
    with pytest.raises(ConfigError, match=r"'optimizer.nam'.*'name'.*'data.x'"):
        compose_hierarchy(root, required=["optimizer.nam", "lr", "data.x"])
    with pytest.raises(ConfigError, match="on_missing"):
        compose_hierarchy(root, on_missing="ignore")
    lay(root, {"model/resnet50.json": "{}"})
    with pytest.raises(ConfigError, match="two files"):
        compose_hierarchy(root, select={"model": "resnet50"})


def test_malformed_defaults_and_interpolations(tmp_path: Path) -> None:
    root = lay(tmp_path, GROUPS | {"config.yaml": "defaults:\n  - [model]\n"})
    with pytest.raises(ConfigError, match="defaults list"):
        compose_hierarchy(root)
    pytest.importorskip("omegaconf")
    lay(root, {"config.yaml": "a: ${b.c}\n"})
    with pytest.raises(ConfigError, match="'a'"):
        compose_hierarchy(root)
