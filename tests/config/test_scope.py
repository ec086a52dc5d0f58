"""Scope: views, their order, the command line, files, environment, injection, concurrency."""

from __future__ import annotations

import argparse
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel

from sweep.config import ADict, Scope
from sweep.errors import ConfigError, ConfigFileMissing, UnknownName


def trainer(**options: Any) -> Scope:
    """A scope with a default view, two named ones, and a lazy one."""
    scope = Scope(**options)

    @scope.observe(default=True)
    def defaults(cfg: ADict) -> None:
        cfg.lr = 0.001
        cfg.epochs = 100
        cfg.model.backbone = "resnet50"
        cfg.layers = [1, 2]
        cfg.flag = False

    @scope.observe(priority=2)
    def long_training(cfg: ADict) -> None:
        cfg.epochs = 300
        cfg.lr = 0.5

    @scope.observe(priority=1)
    def high_lr(cfg: ADict) -> None:
        cfg.lr = 0.01

    @scope.observe(lazy=True)
    def scaled(cfg: ADict) -> None:
        cfg.warmup = cfg.epochs // 10
        cfg.lr = cfg.lr * 2

    return scope


# -- views ----------------------------------------------------------------------------------------


def test_priority_decides_whatever_the_order_of_the_words() -> None:
    for words in (["high_lr", "long_training"], ["long_training", "high_lr"]):
        assert trainer().resolve(words).lr == 0.5


def test_words_decide_among_equal_priorities_and_defaults_come_first() -> None:
    scope = Scope()
    seen: list[str] = []
    for name, default, priority in (("a", False, 0), ("b", False, 0), ("c", True, 9), ("d", True, -1)):
        scope.observe(name, default=default, priority=priority)(lambda cfg, name=name: seen.append(name))
    scope.resolve(["b", "a"])
    assert seen == ["d", "c", "b", "a"]


def test_lazy_views_see_everything_and_never_override_an_explicit_value() -> None:
    """Ato lets a lazy view overrule the command line."""
    found = trainer().resolve(["scaled", "epochs=50"])
    assert (found.warmup, found.lr) == (5, 0.002)
    assert trainer().resolve(["scaled", "lr=1"]).lr == 1.0
    assert trainer().resolve(["scaled", "warmup=7"]).warmup == 7


def test_a_lazy_view_that_replaces_a_group_leaves_explicit_keys() -> None:
    scope = trainer()

    @scope.observe(default=True)
    def more(cfg: ADict) -> None:
        cfg.model.width = 5

    @scope.observe(lazy=True)
    def swap(cfg: ADict) -> None:
        cfg.model = {"backbone": "vit", "patch": {"size": 16}}
        cfg.layers.append(3)

    found = scope.resolve(["swap", "model.backbone=mine", "layers=[9]"])
    assert found.model == {"backbone": "mine", "patch": {"size": 16}}
    assert found.layers == [9]
    steps = scope.why("model.backbone", ["swap", "model.backbone=mine"])
    assert [(step.kind, step.value, step.applied) for step in steps][1:] == [
        ("lazy", "vit", False),
        ("command line", "mine", True),
    ]
    assert scope.resolve(["swap"]).to_dict() == {
        "lr": 0.001,
        "epochs": 100,
        "model": {"backbone": "vit", "patch": {"size": 16}},
        "layers": [1, 2, 3],
        "flag": False,
    }


@pytest.mark.parametrize("keyword", ["needs", "chain_with"])
def test_needs_come_with_a_view_and_before_it(keyword: str) -> None:
    scope = Scope()
    seen: list[str] = []

    def view(name: str, **options: Any) -> None:
        scope.observe(name, **options)(lambda cfg: seen.append(name))

    view("top", **{keyword: ["left", "right"]}, priority=-5)
    view("left", **{keyword: "base"})
    view("right", **{keyword: "base"}, priority=-1)
    view("base", priority=9)
    view("late", lazy=True, **{keyword: "base"})
    scope.resolve(["top"])
    assert seen == ["base", "right", "left", "top"]
    seen.clear()
    scope.resolve(["late", "left"])
    assert seen == ["base", "left", "late"]


def test_wrong_needs() -> None:
    scope = Scope()
    for name, needs in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "bb"), ("f", "late")):
        scope.observe(name, needs=needs)(lambda cfg: None)
    scope.observe("late", lazy=True)(lambda cfg: None)
    with pytest.raises(ConfigError, match="b → c → a → b"):
        scope.resolve(["b"])
    with pytest.raises(UnknownName, match=r"'bb' \(needed by view 'd'\); there are: a, b"):
        scope.resolve(["d"])
    with pytest.raises(ConfigError, match=r"'f' .*needs 'late', which is lazy"):
        scope.resolve(["f"])


def test_each_view_runs_once() -> None:
    """Ato runs every view twice."""
    scope = Scope()
    runs: list[str] = []

    @scope.observe(default=True)
    def plain(cfg: ADict) -> None:
        runs.append("plain")
        cfg.x = 1

    @scope.observe(default=True)
    def with_block(cfg: ADict) -> None:
        runs.append("with_block")
        with Scope.lazy():
            runs.append("block")
            cfg.y = cfg.x + 1

    @scope
    def use(cfg: ADict) -> int:
        return int(cfg.y)

    assert scope.parse(["x=5"]) == {"x": 5, "y": 6}
    assert use() == 6
    assert use() == 6
    assert runs == ["plain", "with_block", "block"]


def test_lazy_blocks_see_the_command_line_and_give_way_to_it() -> None:
    scope = Scope()

    @scope.observe(default=True)
    def config(cfg: ADict) -> None:
        cfg.model = "resnet50"
        cfg.num_layers = 50
        with Scope.lazy():
            if cfg.model == "resnet101":
                cfg.num_layers = 101
        with scope.lazy():
            cfg.seen = cfg.num_layers

    assert scope.resolve([]).to_dict() == {"model": "resnet50", "num_layers": 50, "seen": 50}
    assert scope.resolve(["model=resnet101"]).seen == 101
    assert scope.resolve(["model=resnet101", "num_layers=7"]).seen == 7


def test_misused_lazy_blocks_say_what_to_do() -> None:
    scope = Scope()

    @scope.observe()
    def after(cfg: ADict) -> None:
        with Scope.lazy():
            cfg.a = 1
        cfg.b = 2

    @scope.observe(lazy=True)
    def inside(cfg: ADict) -> None:
        with Scope.lazy():
            cfg.a = 1

    with pytest.raises(ConfigError, match=r"'b' is set after a Scope\.lazy"):
        scope.resolve(["after"])
    with pytest.raises(ConfigError, match="not lazy itself"):
        scope.resolve(["inside"])


def test_a_failure_ends_suspended_views_and_names_the_view() -> None:
    scope = Scope()

    @scope.observe(default=True)
    def waits(cfg: ADict) -> None:
        with Scope.lazy():
            cfg.a = 1

    @scope.observe()
    def fails(cfg: ADict) -> None:
        if not cfg.later:
            cfg.later = 1
        cfg.x = cfg.batch_sze * 2

    @scope.observe()
    def late(cfg: ADict) -> None:
        with Scope.lazy():
            raise LookupError("mine")

    with pytest.raises(TypeError) as caught:
        scope.resolve(["fails"])
    assert "in view 'fails'" in caught.value.__notes__[0]
    assert caught.value.__notes__[0].endswith("nothing has set what it read: batch_sze")
    with pytest.raises(LookupError, match="mine"):
        scope.resolve(["late"])
    assert not [thread for thread in threading.enumerate() if thread.name == "sweep-view"]


def test_a_typo_in_what_a_view_reads_is_said() -> None:
    scope = trainer()

    @scope.observe(lazy=True)
    def typo(cfg: ADict) -> None:
        if cfg.epoch == 100:
            cfg.lr = 1.0

    with pytest.warns(UserWarning, match=r"view 'typo' .*read 'epoch'.*did you mean 'epochs'"):
        assert trainer_is_unchanged(scope.resolve(["typo"]))


def trainer_is_unchanged(config: Any) -> bool:
    return bool(config.lr == 0.001)


def test_names_of_views() -> None:
    scope = Scope()
    scope.observe("high-lr")(lambda cfg: None)
    with pytest.raises(ConfigError, match="exists already"):
        scope.observe("high-lr")(lambda cfg: None)
    for name in ("manual", "--x", "a=b", "a b"):
        with pytest.raises(ConfigError, match="cannot be the name"):
            scope.observe(name)(lambda cfg: None)
    with pytest.raises(ConfigError, match="plain function"):

        @scope.observe()
        async def later(cfg: ADict) -> None: ...

    with pytest.raises(ConfigError, match="parentheses"):
        scope.observe(lambda cfg: None)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(UnknownName, match="did you mean 'high-lr'"):
        scope.resolve(["high_lr"])
    with pytest.raises(ConfigError, match="identifier"):
        Scope(name="a b")


def test_a_key_that_an_unselected_view_would_set_is_explained() -> None:
    scope = Scope()

    @scope.observe()
    def my_config(config: ADict) -> None:
        config.dataset = "cifar10"

    @scope
    def train(config: ADict) -> str:
        return str(config.dataset)

    with pytest.raises(AttributeError, match=r"view 'my_config' sets it .*test_scope.py:\d+.*default=True"):
        train()
    scope.parse(["my_config"])
    assert train() == "cifar10"


# -- explicit values ------------------------------------------------------------------------------


def test_command_line_values() -> None:
    words = "lr=1 epochs=7 model.backbone=%resnet101% layers=[64,128] flag=true model.depth=50"
    with pytest.warns(UserWarning, match="model.depth"):
        found = trainer().resolve(words)
    assert found.to_dict() == {
        "lr": 1.0,
        "epochs": 7,
        "model": {"backbone": "resnet101", "depth": 50},
        "layers": [64, 128],
        "flag": True,
    }
    assert type(found.lr) is float
    assert trainer().resolve(["model.backbone=101"]).model.backbone == "101"
    assert trainer().resolve(["model.backbone=[INST]"]).model.backbone == "[INST]"
    assert trainer().resolve(["model.backbone=null", "flag=1"]).model == {"backbone": None}
    assert trainer().resolve(["model={backbone: x}"]).model == {"backbone": "x"}
    assert trainer().resolve(["epochs=0.5", "lr=1", "lr=2"]).lr == 2.0


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr=abc", r"'lr' is a number \(0.001\), got abc"),
        ("lr=true", "is a number"),
        ("lr=log(1e-5,1e-1)", "search ranges are read by"),
        ("epochs=50,101", "search ranges are read by"),
        ("flag=yes", "true or false"),
        ("layers=3", "is a list"),
        ("layers=[1,,2]", "no value"),
        ("model=3", r"'model' is a group \(backbone\)"),
        ("lr.x=3", r"'lr' is 0.001 \(set by default defaults .*test_scope.py:\d+\), no group"),
        ("lr={x: 1}", "'lr' is 0.001"),
        ("lr=__import__('os').mkdir('made')", "is a number"),
    ],
)
def test_values_of_the_wrong_type(word: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        trainer().resolve([word])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("flag=1", True),
        ("flag=0", False),
        ("n=1e3", 1000),
        ("n=3.0", 3),
        ("n=0.5", 0.5),
        ("n=99999999999999999999999", 99999999999999999999999),
        ("n=inf", float("inf")),
        ("x=1", 1.0),
        ("whole=[1e3,2]", [1000, 2]),
        ("parts=(1,2)", [1.0, 2.0]),
        ("mixed=[1,2]", [1.0, 2.0]),
        ("truths=[1,false]", [True, False]),
        ("names=[1,true]", [1, True]),
        ("whole=[null,2]", [None, 2]),
        ("flag=2", "true or false"),
        ("flag=yes", "true or false"),
        ("n=true", "a number"),
        ("n=ten", "a number"),
        ("parts=[true]", "a list"),
        ("whole=[a]", "a list"),
        ("truths=[2]", "a list"),
    ],
)
def test_a_known_value_gives_its_type(word: str, value: Any) -> None:
    scope = Scope()

    @scope.observe(default=True)
    def defaults(cfg: ADict) -> None:
        cfg.update(flag=False, n=3, x=0.5, whole=[1, 2], parts=[0.5], mixed=[1, 0.5], truths=[True], names=["a"])

    if isinstance(value, str):
        with pytest.raises(ConfigError, match=f"is {value}"):
            scope.resolve([word])
        return
    found = scope.resolve([word])[word.partition("=")[0]]
    kinds = [type(one) for one in found] if isinstance(found, list) else type(found)
    assert found == value
    assert kinds == ([type(one) for one in value] if isinstance(value, list) else type(value))


def test_a_key_that_only_a_lazy_view_knows_is_typed_too(tmp_path: Path) -> None:
    scope = Scope()

    @scope.observe(default=True, lazy=True)
    def late(cfg: ADict) -> None:
        cfg.rate = 0.5

    (tmp_path / "c.json").write_text('{"rate": 7}')
    words = ["--config", str(tmp_path / "c.json"), "rate=9"]
    assert repr(scope.resolve(words).rate) == "9.0"
    assert [repr(step.value) for step in scope.why("rate", words)] == ["0.5", "7", "9.0"]
    assert trainer().resolve(["scaled", "warmup=9"]).warmup == 9
    with pytest.raises(ConfigError, match="'warmup' is a number"):
        trainer().resolve(["scaled", "warmup=abc"])


def test_unknown_keys() -> None:
    for word, meant in (("lrr=1", "lr"), ("modl.backbone=x", "model.backbone"), ("model.backbon=x", "model.backbone")):
        with pytest.raises(UnknownName, match=f"did you mean '{meant}'"):
            trainer().resolve([word])
    with pytest.warns(UserWarning, match="knows 'zzz'"):
        assert trainer().resolve(["zzz=1"]).zzz == 1
    with pytest.warns(UserWarning, match=r"there is 'model\.backbone'"):
        trainer().resolve(["backbone=x"])
    with pytest.raises(UnknownName, match="zzz"):
        trainer(strict=True).resolve(["zzz=1"])
    with pytest.raises(UnknownName, match="did you mean 'high_lr'"):
        trainer().resolve(["hihg_lr"])


def test_nothing_is_left_of_a_refused_command_line() -> None:
    scope = trainer()
    with pytest.raises(ConfigError):
        scope.parse(["epochs=5", "lr=abc"])
    assert scope.resolve().epochs == 100


def test_order_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.yaml").write_text("lr: 1\nepochs: 1\nmodel: {backbone: one}\n")
    (tmp_path / "two.toml").write_text("epochs = 2\n")
    monkeypatch.setenv("TRAIN_EPOCHS", "3")
    monkeypatch.setenv("TRAIN_MODEL__BACKBONE", "env")
    monkeypatch.setenv("TRAIN_FLAG", "true")
    scope = trainer(env_prefix="TRAIN_")
    files = ["--config", str(tmp_path / "one.yaml"), f"--config={tmp_path / 'two.toml'}"]
    found = scope.resolve([*files, "scaled", "flag=false"])
    assert found.to_dict() == {
        "lr": 1.0,
        "epochs": 3,
        "model": {"backbone": "env"},
        "layers": [1, 2],
        "flag": False,
        "warmup": 0,
    }
    monkeypatch.setenv("TRAIN_EPOCH", "3")
    with pytest.raises(UnknownName, match=r"TRAIN_EPOCH=3.*did you mean 'epochs'"):
        scope.resolve([])
    monkeypatch.delenv("TRAIN_EPOCH")
    with pytest.raises(ConfigFileMissing, match=r"did you mean 'one\.yaml'"):
        scope.resolve(["--config", str(tmp_path / "on.yaml")])
    (tmp_path / "bad.json").write_text('{"lr": "0.1"}')
    with pytest.raises(ConfigError, match=r"bad.json.*'lr' is a number"):
        scope.resolve(["--config", str(tmp_path / "bad.json")])


def test_argparse_flags_are_read_without_patching_it() -> None:
    before = argparse.ArgumentParser.parse_args
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", type=int, default=0)
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("-v", action="count", default=0)
    parser.add_argument("--seed", type=int, default=42)
    scope = trainer(parser=parser)

    @scope.observe(default=True)
    def other(cfg: ADict) -> None:
        cfg.gpu = 5

    found = scope.resolve(["--tag", "a", "lr=1", "high_lr", "-vv", "--tag=b", "--gpu", "0"])
    assert (found.gpu, found.seed, found.tag, found.v, found.lr) == (0, 42, ["a", "b"], 2, 1.0)
    assert scope.resolve([]).gpu == 5  # a parser's default is the lowest of the defaults
    assert [step.kind for step in scope.why("gpu", ["--gpu", "0"])] == ["default", "default", "command line"]
    with pytest.raises(UnknownName, match="did you mean '--seed'"):
        scope.resolve(["--sed", "3"])
    assert argparse.ArgumentParser.parse_args is before


# -- functions ------------------------------------------------------------------------------------


def test_injection() -> None:
    class Model(BaseModel):
        lr: float = 0.1

    scope, typed = trainer(), Scope(Model, name="hyper")

    @scope
    def only(anything: Any) -> Any:
        return anything.lr

    @scope
    def by_name(x: int, config: ADict, y: int = 2) -> Any:
        return x, config.lr, y

    @scope
    def first(cfg: ADict, x: int, *rest: int, z: int = 0) -> Any:
        return cfg.lr, x, rest, z

    @scope
    def by_keyword(*, cfg: ADict) -> Any:
        return cfg.lr

    @scope
    def two(a: Any, b: Any) -> None: ...

    @scope
    def none() -> int:
        return 3

    @typed
    def by_type(x: int, settings: Model) -> Any:
        return x, settings.lr

    @scope
    def mixed(x: int, *, cfg: ADict) -> Any:
        return x, cfg.lr

    @scope
    def options(values: dict[str, int], config: Any) -> Any:
        return values, config.lr

    class Trainer:
        @scope
        def train(self, cfg: ADict, x: int = 1) -> Any:
            return type(self).__name__, cfg.lr, x

    assert only() == 0.001
    assert by_name(1) == by_name(x=1) == (1, 0.001, 2)
    assert by_name(1, y=3) == (1, 0.001, 3)
    assert first(5, 6, z=7) == (0.001, 5, (6,), 7)
    assert first(x=5) == (0.001, 5, (), 0)
    assert by_keyword() == 0.001
    assert none() == 3
    assert by_type(4) == (4, 0.1)
    assert Trainer().train(x=2) == ("Trainer", 0.001, 2)
    assert mixed(1) == (1, 0.001)
    assert options({"a": 1}) == ({"a": 1}, 0.001)
    assert only(ADict(lr=9)) == only(anything=ADict(lr=9)) == 9
    with pytest.raises(ConfigError, match=r"two\(\) has 2 parameters.*a, b"):
        two()
    with pytest.raises(TypeError):
        only(1, 2, 3)


def test_nested_functions_share_one_config() -> None:
    scope = trainer()

    @scope
    def inner(cfg: ADict) -> ADict:
        return cfg

    @scope
    def outer(cfg: ADict) -> bool:
        return inner() is cfg

    assert outer()


def test_a_view_that_needs_its_own_config_is_refused() -> None:
    scope = Scope()

    @scope
    def use(cfg: ADict) -> Any:
        return cfg.x

    @scope.observe(default=True)
    def circular(cfg: ADict) -> None:
        cfg.x = use()

    @scope.observe()
    def suspended(cfg: ADict) -> None:
        with Scope.lazy():
            use()

    with pytest.raises(ConfigError, match="helping to build"):
        use()
    with pytest.raises(ConfigError, match="helping to build"):
        scope.resolve(["suspended"])


@pytest.mark.anyio
async def test_concurrent_tasks_have_their_own_words() -> None:
    scope = trainer()
    found: dict[int, Any] = {}

    @scope
    async def train(cfg: ADict) -> float:
        await anyio.lowlevel.checkpoint()
        return float(cfg.lr)

    async def one(number: int) -> None:
        scope.parse([f"lr={number}"])
        await anyio.lowlevel.checkpoint()
        found[number] = await train()

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
    assert found == {number: float(number) for number in range(20)}


def test_concurrent_threads_resolve_once_and_have_their_own_words() -> None:
    scope = Scope()
    runs: list[int] = []

    @scope.observe(default=True)
    def config(cfg: ADict) -> None:
        runs.append(1)
        cfg.lr = 0.5
        with Scope.lazy():
            cfg.twice = cfg.lr * 2

    @scope
    def train(cfg: ADict) -> float:
        return float(cfg.twice)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: train(), range(40))) == [1.0] * 40
        assert len(runs) == 1
        assert list(pool.map(lambda n: scope.resolve([f"lr={n}"]).twice, range(40))) == [2.0 * n for n in range(40)]


def test_words_go_along_to_another_process() -> None:
    scope = trainer()
    scope.views = {}
    with pytest.warns(UserWarning, match="lr"):
        scope.parse(["lr=3"])
    again = pickle.loads(pickle.dumps(scope))  # our own bytes
    with pytest.warns(UserWarning, match="lr"):
        assert again.resolve() == {"lr": 3}


def test_what_was_not_read() -> None:
    scope = trainer()
    found = scope.parse(["scaled"])
    assert "layers" in scope.unread()
    _ = found.lr, found.model.backbone, found.layers, found.epochs
    assert scope.unread() == ["flag", "warmup"]
    with pytest.raises(ConfigError, match="pydantic model"):
        Scope(type("M", (BaseModel,), {})).unread()


def test_resolved_configs_are_frozen_and_have_no_auto() -> None:
    found = trainer().resolve([])
    with pytest.raises(ConfigError, match="frozen"):
        found.model.depth = 3
    with pytest.raises(ConfigError, match="frozen"):
        found.layers.append(3)
    with pytest.raises(AttributeError, match=r"no key 'model.backbon' in config.*did you mean 'model.backbone'"):
        _ = found.model.backbon
    with pytest.raises(KeyError, match="lr"):
        found["lrr"]
    copied = found.copy()
    copied.model.depth = 3
    assert pickle.loads(pickle.dumps(found)) == found  # our own bytes


def test_text_in_a_list_of_numbers_and_a_number_without_end_are_refused() -> None:
    scope = Scope()

    @scope.observe(default=True)
    def view(cfg: ADict) -> None:
        cfg.layers = [64, 128]
        cfg.names = ["a"]
        cfg.lr = 0.1

    assert scope.resolve(["layers=[1.5]", "names=[1 2]"]).to_dict() == {"layers": [1.5], "names": ["1 2"], "lr": 0.1}
    with pytest.raises(ConfigError, match=r"'layers' is a list \(\[64, 128\]\), got \[1 2\]"):
        scope.resolve(["layers=[1 2]"])
    with pytest.raises(ConfigError, match=r"'lr' is a number .*got 1e400"):
        scope.resolve(["lr=1e400"])


def test_a_warning_names_the_line_that_asked_for_the_config() -> None:
    scope = Scope()
    with pytest.warns(UserWarning, match="no view of 'config' knows 'new'") as caught:
        scope.resolve(["new=1"])
    assert caught[0].filename == __file__


def test_all_wrong_words_are_said_at_once() -> None:
    class Typed(BaseModel):
        lr: float = 0.1
        seed: int = 0

    scope = Scope(Typed)
    with pytest.raises(ConfigError) as caught:
        scope.resolve(["lr=fast", "sede=1", "seed=1.5"])
    lines = str(caught.value).splitlines()
    assert [line.split("(")[0] for line in lines] == ["'lr' ", "unknown key 'sede' ", "'seed' "]
    assert scope.resolve(["lr=1"]).lr == 1.0
