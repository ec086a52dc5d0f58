"""Every Scope example of the two Ato documents, as written but for the imports, run as a script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sweep

ROOT = str(Path(sweep.__file__).parent.parent)

QUICK_START = """
from sweep.config import Scope

scope = Scope()

@scope.observe(default=True)
def config(cfg):
    cfg.lr = 0.001
    cfg.batch_size = 32
    cfg.model = 'resnet50'

@scope
def train(cfg):
    print(f"Training {cfg.model} with lr={cfg.lr}")

if __name__ == '__main__':
    train()
"""

SIMPLE = """
from sweep.config import Scope

scope = Scope()

@scope.observe()
def my_config(config):
    config.dataset = 'cifar10'
    config.lr = 0.001
    config.batch_size = 32

@scope
def train(config):
    print(f"Training on {config.dataset} {config.lr} {config.batch_size}")

if __name__ == '__main__':
    train()
"""

PRIORITY = """
from sweep.config import Scope

scope = Scope()

@scope.observe(default=True)  # Always applied
def defaults(cfg):
    cfg.lr = 0.001
    cfg.epochs = 100

@scope.observe(priority=1)  # Applied after defaults
def high_lr(cfg):
    cfg.lr = 0.01

@scope.observe(priority=2)  # Applied last
def long_training(cfg):
    cfg.epochs = 300

@scope
def train(cfg):
    print(f"lr={cfg.lr}, epochs={cfg.epochs}")

if __name__ == '__main__':
    train()
"""

NESTED = """
from sweep.config import Scope

scope = Scope()

@scope.observe(default=True)
def config(cfg):
    cfg.training.optimizer.name = 'AdamW'
    cfg.training.optimizer.lr = 0.001
    cfg.model.encoder.num_layers = 12

@scope
def train(cfg):
    print(cfg.to_dict())

if __name__ == '__main__':
    train()
"""

LAZY = """
from sweep.config import Scope

scope = Scope()

@scope.observe()
def base_config(cfg):
    cfg.model = 'resnet50'
    cfg.dataset = 'imagenet'

@scope.observe(lazy=True)  # Evaluated AFTER CLI args
def computed_config(cfg):
    # Adjust based on dataset
    if cfg.dataset == 'imagenet':
        cfg.num_classes = 1000
        cfg.image_size = 224
    elif cfg.dataset == 'cifar10':
        cfg.num_classes = 10
        cfg.image_size = 32

@scope.observe()
def my_config(cfg):
    cfg.model = 'resnet50'
    cfg.num_layers = 50

    with Scope.lazy():  # Evaluated after CLI
        if cfg.model == 'resnet101':
            cfg.num_layers = 101

@scope
def train(cfg):
    print(cfg.to_dict())

if __name__ == '__main__':
    train()
"""

MULTI = """
from sweep.config import Scope, MultiScope
from team_model import model_scope
from team_data import data_scope

scope = MultiScope(model_scope, data_scope)

@scope
def train(model, data):
    # Both have 'lr' but in separate namespaces!
    print(f"Model LR: {model.lr}, Data LR: {data.lr}, {model.backbone} on {data.dataset}")

if __name__ == '__main__':
    train()
"""

TEAM_MODEL = """
from sweep.config import Scope

model_scope = Scope(name='model')

@model_scope.observe(default=True)
def resnet_default(model):
    model.backbone = 'resnet50'
    model.lr = 0.1  # Model-specific learning rate

@model_scope.observe(priority=1)
def resnet101(model):
    model.backbone = 'resnet101'
    model.lr = 0.05  # Different lr for bigger model
"""

TEAM_DATA = """
from sweep.config import Scope

data_scope = Scope(name='data')

@data_scope.observe(default=True)
def cifar_default(data):
    data.dataset = 'cifar10'
    data.lr = 0.001  # Data augmentation learning rate (no conflict!)

@data_scope.observe(priority=1)
def imagenet(data):
    data.dataset = 'imagenet'
    data.workers = 16
"""

EXTERNAL = """
from sweep.config import Scope

scope = Scope()

@scope.observe(default=True)
def load_external(config):
    # Load from any format
    config.load('experiments/baseline.json')
    config.load('models/resnet.yaml')

    # Export to any format
    config.dump('output/final_config.toml')

    # Import OpenMMLab configs - handles _base_ inheritance automatically
    config.load_mm_config('mmdet_configs/faster_rcnn.py')

@scope
def train(config):
    print(config.to_dict())
    print(scope.why('depth'))

if __name__ == '__main__':
    train()
"""

ARGPARSE = """
from sweep.config import Scope
import argparse

parser = argparse.ArgumentParser()
parser.add_argument('--gpu', type=int, default=0)
parser.add_argument('--seed', type=int, default=42)
scope = Scope(parser=parser)

@scope.observe(default=True)
def config(cfg):
    cfg.lr = 0.001
    cfg.batch_size = 32

@scope
def train(cfg):
    print(f"GPU: {cfg.gpu}, LR: {cfg.lr}, seed {cfg.seed}")

if __name__ == '__main__':
    train()
"""

MANUAL = """
from sweep.config import Scope

scope = Scope()

@scope.observe(default=True)
def defaults(cfg):
    raise RuntimeError("no view is run for the manual")

@scope.observe(lazy=True)
def lazy_config(cfg):
    raise RuntimeError("no view is run for the manual")

@scope.manual
def config_docs(cfg):
    cfg.lr = 'Learning rate for optimizer'
    cfg.batch_size = 'Number of samples per batch'
    cfg.model = 'Model architecture (resnet50, resnet101, etc.)'

@scope
def main(cfg):
    pass

if __name__ == '__main__':
    main()
"""

MULTI_MANUAL = """
from sweep.config import Scope, MultiScope

model_scope = Scope(name='model')
train_scope = Scope(name='train')
scope = MultiScope(model_scope, train_scope)

@model_scope.observe(default=True)
def model_defaults(model):
    model.backbone = 'resnet50'
    model.num_layers = 50

@model_scope.observe(priority=1)
def model_advanced(model):
    model.pretrained = True

@model_scope.observe(lazy=True)
def model_lazy(model):
    if model.backbone == 'resnet101':
        model.num_layers = 101

@train_scope.observe(default=True)
def train_defaults(train):
    train.lr = 0.001
    train.epochs = 100

@model_scope.manual
def model_docs(model):
    model.backbone = 'Model backbone architecture'
    model.num_layers = 'Number of layers in the model'

@train_scope.manual
def train_docs(train):
    train.lr = 'Learning rate for optimizer'
    train.epochs = 'Total training epochs'

@scope
def main(model, train):
    print(f"Training {model.backbone} with lr={train.lr}")

if __name__ == '__main__':
    main()
"""

REAL_WORLD = """
from sweep.config import Scope

scope = Scope()

@scope.observe(default=True)
def defaults(cfg):
    cfg.lr = 0.001
    cfg.batch_size = 128

@scope.observe(priority=1)
def experiment_config(cfg):
    cfg.lr = 0.01

@scope.observe(priority=2)
def another_config(cfg):
    cfg.lr = 0.1

@scope.observe(lazy=True)
def adaptive_lr(cfg):
    if cfg.batch_size > 64:
        cfg.lr = cfg.lr * 2

@scope
def main(cfg):
    print(cfg.lr)

if __name__ == '__main__':
    main()
"""


def run(folder: Path, script: str, words: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(script)
    (folder / "team_model.py").write_text(TEAM_MODEL)
    (folder / "team_data.py").write_text(TEAM_DATA)
    command = [sys.executable, "-W", "error", "train.py", *words.split()]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)  # our own script


@pytest.mark.parametrize(
    ("script", "words", "out"),
    [
        (QUICK_START, "", "Training resnet50 with lr=0.001\n"),
        (QUICK_START, "lr=0.01 model=%resnet101%", "Training resnet101 with lr=0.01\n"),
        (SIMPLE, "my_config", "Training on cifar10 0.001 32\n"),
        (SIMPLE, "my_config lr=0.5 batch_size=128", "Training on cifar10 0.5 128\n"),
        (PRIORITY, "", "lr=0.001, epochs=100\n"),
        (PRIORITY, "high_lr", "lr=0.01, epochs=100\n"),
        (PRIORITY, "high_lr long_training", "lr=0.01, epochs=300\n"),
        (
            NESTED,
            "training.optimizer.lr=1",
            "{'training': {'optimizer': {'name': 'AdamW', 'lr': 1.0}}, 'model': {'encoder': {'num_layers': 12}}}\n",
        ),
        (
            LAZY,
            "base_config dataset=%cifar10% computed_config",
            "{'model': 'resnet50', 'dataset': 'cifar10', 'num_classes': 10, 'image_size': 32}\n",
        ),
        (LAZY, "my_config model=%resnet101%", "{'model': 'resnet101', 'num_layers': 101}\n"),
        (LAZY, "my_config", "{'model': 'resnet50', 'num_layers': 50}\n"),
        (MULTI, "", "Model LR: 0.1, Data LR: 0.001, resnet50 on cifar10\n"),
        (
            MULTI,
            "model.backbone=%mine% data.dataset=%other%",
            "Model LR: 0.1, Data LR: 0.001, mine on other\n",
        ),
        (MULTI, "resnet101 imagenet", "Model LR: 0.05, Data LR: 0.001, resnet101 on imagenet\n"),
        (ARGPARSE, "--gpu 2 lr=0.5", "GPU: 2, LR: 0.5, seed 42\n"),
        (REAL_WORLD, "experiment_config another_config", "0.1\n"),
        (REAL_WORLD, "another_config experiment_config adaptive_lr", "0.2\n"),
    ],
)
def test_examples_as_written(script: str, words: str, out: str, tmp_path: Path) -> None:
    done = run(tmp_path, script, words)
    assert (done.stdout, done.stderr, done.returncode) == (out, "", 0)


def test_new_keys_are_accepted_with_a_warning(tmp_path: Path) -> None:
    """The seed's ``model.backbone.resnet.depth=50 data.batch_size=32``: no view knows these keys."""
    script = "import warnings\nwarnings.simplefilter('always')\n" + NESTED
    done = run(tmp_path, script, "model.backbone.resnet.depth=50 data.batch_size=32")
    assert "'backbone': {'resnet': {'depth': 50}}" in done.stdout
    assert "'data': {'batch_size': 32}" in done.stdout
    assert "no view of 'config' knows 'data.batch_size'" in done.stderr
    assert "train.py:" in done.stderr.splitlines()[0]


def test_a_view_that_is_not_selected_is_suggested(tmp_path: Path) -> None:
    done = run(tmp_path, SIMPLE, "")
    assert done.returncode == 1
    assert "no key 'dataset' in config; view 'my_config' sets it (train.py:8)" in done.stderr


def test_a_wrong_word_can_be_caught_where_the_program_gives_the_words_itself(tmp_path: Path) -> None:
    script = QUICK_START.replace("    train()", "    scope.parse(['lrr=1'])")
    done = run(tmp_path, script, "")
    assert "sweep.errors.UnknownName: unknown key 'lrr'" in done.stderr


def test_a_mistake_in_a_view_shows_its_line(tmp_path: Path) -> None:
    done = run(tmp_path, QUICK_START.replace("cfg.lr = 0.001", "cfg.lr = cfg.base * 2"), "")
    assert done.returncode == 1
    assert "cfg.lr = cfg.base * 2" in done.stderr
    assert "nothing has set what it read: base" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lrr=1", "unknown key 'lrr' (lrr=1); did you mean 'lr'?"),
        ("lr=abc", "'lr=abc': 'lr' is a number (0.001), got abc"),
        ("confg", "unknown view 'confg' (scope 'config'); did you mean 'config'?"),
        ("lr 0.1", "unknown view 'lr' (scope 'config'; it is a key: lr=VALUE)"),
        ("--lr=1", "unknown flag '--lr' (values are given as key=value)"),
        ("lr=__import__('os').mkdir('made')", "'lr' is a number"),
        ("--config evil.yaml", "a config file is plain data, and nothing in it is run"),
    ],
)
def test_a_typo_gives_one_line(words: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("lr: !!python/object/apply:os.mkdir [made]\n")
    done = run(tmp_path, QUICK_START, words)
    assert done.returncode == 2, "as argparse has it"
    (line,) = done.stderr.splitlines()
    assert line.startswith("train.py: error: ")
    assert said in line
    assert done.stdout == ""
    assert not (tmp_path / "made").exists()


def test_external_configs(tmp_path: Path) -> None:
    for name, text in {
        "experiments/baseline.json": '{"lr": 0.1, "model": {"name": "base"}}',
        "models/resnet.yaml": "model: {depth: 50}\ndepth: 1\n",
        "mmdet_configs/faster_rcnn.py": "_base_ = ['./base.py']\nmodel = dict(neck=dict(_delete_=True, type='FPN'))\n",
        "mmdet_configs/base.py": "model = dict(neck=dict(type='Old', channels=3))\ndepth = 2\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = run(tmp_path, EXTERNAL, "depth=3")
    first, *why = done.stdout.splitlines()
    assert first == "{'lr': 0.1, 'model': {'name': 'base', 'depth': 50, 'neck': {'type': 'FPN'}}, 'depth': 3}"
    assert "train.py:16" in why[1]
    assert (tmp_path / "output" / "final_config.toml").exists()


def test_the_manual_of_the_seed(tmp_path: Path) -> None:
    done = run(tmp_path, MANUAL, "lr=0.5 manual")
    assert done.returncode == 0
    assert done.stdout == (
        "--------------------------------------------------\n"
        '[Scope "config"]\n'
        "(The Applying Order of Views)\n"
        "defaults → (CLI Inputs) → lazy_config → main\n"
        "(Applied Here)\n"
        "defaults → (CLI Inputs: lr=0.5) → main\n"
        "\n"
        "(User Manuals)\n"
        "config.lr: Learning rate for optimizer\n"
        "config.batch_size: Number of samples per batch\n"
        "config.model: Model architecture (resnet50, resnet101, etc.)\n"
        "--------------------------------------------------\n"
    )


def test_the_manual_of_several_scopes(tmp_path: Path) -> None:
    done = run(tmp_path, MULTI_MANUAL, "manual")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "--------------------------------------------------",
        '[Scope "model"]',
        "(The Applying Order of Views)",
        "model_defaults → model_advanced → (CLI Inputs) → model_lazy → main",
    ]
    second = lines.index('[Scope "train"]')
    assert lines[second - 1] == lines[-1] == lines[0]
    assert lines[second + 2] == "train_defaults → (CLI Inputs) → main"
    assert "train.epochs: Total training epochs" in lines
    assert run(tmp_path, MULTI_MANUAL, "").stdout == "Training resnet50 with lr=0.001\n"
    other = MULTI_MANUAL.replace("def main(", "def learn(").replace("    main()", "    learn()")
    assert "train_defaults → (CLI Inputs) → learn" in run(tmp_path, other, "manual").stdout.splitlines()


def test_the_manual_of_the_real_world_example(tmp_path: Path) -> None:
    done = run(tmp_path, REAL_WORLD, "manual another_config adaptive_lr --config x.yaml")
    assert done.stdout.splitlines()[3:6] == [
        "defaults → experiment_config → another_config → (CLI Inputs) → adaptive_lr → main",
        "(Applied Here)",
        "defaults → another_config → (CLI Inputs: x.yaml) → adaptive_lr → main",
    ]


def test_argv_belongs_to_the_script_alone(tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(QUICK_START)
    script = "from library import train, scope\ntrain()\nscope.parse(['lr=0.5'])\ntrain()\n"
    done = run(tmp_path, script, "--not-for-us x=1")
    assert done.stdout == "Training resnet50 with lr=0.001\nTraining resnet50 with lr=0.5\n"


def test_a_decorated_function_of_a_script_travels_to_another_process_with_its_words(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    script = QUICK_START.replace(
        "    train()\n", "    import cloudpickle, subprocess, sys\n    data = cloudpickle.dumps(train)\n"
    ) + (
        "    child = 'import sys, pickle; pickle.loads(sys.stdin.buffer.read())()'\n"
        "    subprocess.run([sys.executable, '-c', child, '--strange', 'x=1'], input=data, check=True)\n"
    )
    done = run(tmp_path, script, "lr=0.5")
    assert (done.stdout, done.stderr) == ("Training resnet50 with lr=0.5\n", "")


BEST_PRACTICE = """
from sweep.config import ADict, Scope

scope = Scope()

@scope.observe(default=True)
def defaults(cfg):
    # Data
    cfg.data = ADict(
        dataset='cifar10',
        batch_size=32,
        num_workers=4
    )

    # Model
    cfg.model = ADict(
        backbone='resnet50',
        pretrained=True
    )

    # Training
    cfg.train = ADict(
        lr=0.001,
        epochs=100,
        optimizer='adam'
    )

    # Experiment tracking
    cfg.experiment = ADict(
        project_name='my_project',
        sql=ADict(db_path='sqlite:///experiments.db')
    )
"""
MODELS = """
from configs.default import scope

@scope.observe()
def large(cfg):
    cfg.model.backbone = 'resnet101'
    cfg.train.lr = 0.0005
"""
WORKFLOW = """
import configs.models
from configs.default import scope

@scope
def train(cfg):
    print(cfg.model.backbone, cfg.data.dataset, cfg.train.lr, cfg.train.epochs, cfg.experiment.sql.db_path)

if __name__ == '__main__':
    train()
"""


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ("", "resnet50 cifar10 0.001 100 sqlite:///experiments.db"),
        ("large train.epochs=3 data.dataset=imagenet", "resnet101 imagenet 0.0005 3 sqlite:///experiments.db"),
    ],
)
def test_the_best_practices_of_the_seed(words: str, out: str, tmp_path: Path) -> None:
    """A package of configs, views in several files, parts that are ADicts."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "default.py").write_text(BEST_PRACTICE)
    (tmp_path / "configs" / "models.py").write_text(MODELS)
    done = run(tmp_path, WORKFLOW, words)
    assert (done.stdout, done.stderr) == (f"{out}\n", "")
    typo = run(tmp_path, WORKFLOW, "train.epoch=3")
    assert typo.stderr == "train.py: error: unknown key 'train.epoch' (train.epoch=3); did you mean 'train.epochs'?\n"
