"""ADict: access, auto-nesting, freezing, hashing, what was read."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.config import ADict, structural_hash
from sweep.errors import ConfigError

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4))
KEYS = st.text(alphabet="ab.c", min_size=1, max_size=3)
TREES = st.dictionaries(KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=4)


def test_attribute_and_item_access_at_any_depth() -> None:
    config = ADict({"model": {"backbone": {"layers": [{"size": 3}]}}}, lr=0.1)
    assert config.model.backbone.layers[0].size == config["model"]["backbone"]["layers"][0]["size"] == 3
    config.lr = 0.2
    config.model.backbone.depth = 50
    assert config == {"model": {"backbone": {"layers": [{"size": 3}], "depth": 50}}, "lr": 0.2}
    del config.lr
    assert "lr" not in config
    assert isinstance(config, dict)
    assert json.loads(json.dumps(config)) == config


def test_a_missing_key_names_a_near_one() -> None:
    config = ADict(learning_rate=0.1)
    with pytest.raises(AttributeError, match="did you mean 'learning_rate'"):
        _ = config.learning_rte
    with pytest.raises(KeyError, match="learning_rate"):
        _ = config["learning_rte"]
    with pytest.raises(AttributeError):
        del config.learning_rte
    assert not hasattr(config, "x")
    assert config.get("x", 3) == 3


def test_auto_builds_nested_configs() -> None:
    config = ADict.auto()
    config.model.backbone.layers = [64, 128, 256]
    config.data["augmentation"].brightness = 0.2
    config.model = {"head": {}}
    config.model.head.size = 3
    assert config.to_dict() == {"model": {"head": {"size": 3}}, "data": {"augmentation": {"brightness": 0.2}}}


def test_reading_auto_leaves_no_trace(tmp_path: Path) -> None:
    """Ato's auto() makes every key that is read: it shows in ``in``, ``==``, hash and files."""
    config, empty = ADict.auto(), ADict()
    placeholder = config.model.backbone
    assert not placeholder
    assert "model" not in config
    assert list(config) == []
    assert config == empty
    assert len(config) == 0
    assert config.get_structural_hash() == empty.get_structural_hash()
    config.dump(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == "{}\n"
    placeholder.lr = 1
    assert config == {"model": {"backbone": {"lr": 1}}}
    with pytest.raises(AttributeError):
        config._repr_html_  # noqa: B018  # what notebooks probe for makes nothing


def test_two_placeholders_of_one_key_are_one() -> None:
    config = ADict.auto()
    first, second = config.a, config.a
    first.x, second.y = 1, 2
    assert config == {"a": {"x": 1, "y": 2}}
    stale = config.b
    config.b = 5
    with pytest.raises(ConfigError, match="'b' has been set since"):
        stale.x = 1


def test_update_if_absent_at_every_depth() -> None:
    config = ADict(lr=0.1, model={"depth": 50})
    config.update_if_absent(lr=0.01, scheduler="cosine", model={"depth": 1, "width": 2})
    assert config == {"lr": 0.1, "scheduler": "cosine", "model": {"depth": 50, "width": 2}}
    assert config.update_if_absent({"lr": 3}) is config
    assert ADict(a={"b": 1}).merge({"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: setattr(c, "lr", 1),
        lambda c: c.__setitem__("new", 1),
        lambda c: c.update(lr=1),
        lambda c: c.pop("lr"),
        lambda c: c.popitem(),
        lambda c: c.clear(),
        lambda c: c.setdefault("z", 1),
        lambda c: c.merge({"model": {"x": 1}}),
        lambda c: c.update_if_absent(z=1),
        lambda c: delattr(c, "lr"),
        lambda c: c.__ior__({"z": 1}),
        lambda c: setattr(c.model, "depth", 1),
        lambda c: c.model.layers.append(1),
        lambda c: c.model.layers.__setitem__(0, 1),
        lambda c: c.model.layers.sort(),
        lambda c: setattr(c.blocks[0], "n", 1),
    ],
)
@pytest.mark.parametrize("auto", [False, True])
def test_a_frozen_config_raises_on_every_change(change: Any, auto: bool) -> None:
    """Ato's frozen configs ignore writes without a word."""
    config = ADict.auto() if auto else ADict()
    config.update(lr=0.1, model={"depth": 50, "layers": [2, 1]}, blocks=({"n": 0},))
    before = copy.deepcopy(config)
    config.freeze()
    with pytest.raises(ConfigError, match="frozen"):
        change(config)
    assert config == before
    assert config.frozen
    assert config.model.frozen
    assert type(ADict(names={1}).freeze().names) is frozenset


def test_copies_of_a_frozen_config_can_be_changed() -> None:
    config = ADict(model={"layers": [1]}).freeze()
    for fresh in (config.copy(), copy.copy(config), copy.deepcopy(config), config | {}, ADict(config)):
        fresh.model.layers.append(2)
        fresh.model.depth = 1
        assert config == {"model": {"layers": [1]}}
    assert type(config.to_dict()["model"]["layers"]) is list
    again = pickle.loads(pickle.dumps(config))  # our own bytes
    assert again == config
    assert again.frozen


def test_keys_named_like_methods_are_items() -> None:
    config = ADict(items=1, copy={"keys": 2})
    assert config["items"] == 1
    assert config["copy"]["keys"] == 2
    assert dict(config.items()) == {"items": 1, "copy": {"keys": 2}}
    with pytest.raises(AttributeError, match=r"cfg\['items'\]"):
        config.items = 3
    assert config.to_dict() == {"items": 1, "copy": {"keys": 2}}
    assert config.copy() == config


def test_minimal_config_is_what_was_read() -> None:
    config = ADict(lr=0.1, model={"depth": 50, "width": 1}, data={"x": 1}, unused=1)
    assert config.get_minimal_config() == {}
    _ = config.lr, config.model.depth, "unused" in config, repr(config), len(config), config.to_dict()
    assert config.get_minimal_config() == {"lr": 0.1, "model": {"depth": 50}}
    assert dict(**config.data) == {"x": 1}  # spreading reads
    assert config.get_minimal_config() == {"lr": 0.1, "model": {"depth": 50}, "data": {"x": 1}}


def test_structural_hash_of_the_seed() -> None:
    one = ADict(lr=0.1, epochs=100, model="resnet50")
    two = ADict(model="resnet101", lr=0.01, epochs=200)
    three = ADict(lr=0.1, epochs="100", model="resnet50")
    assert one.get_structural_hash() == two.get_structural_hash()
    assert one.get_structural_hash() != three.get_structural_hash()
    assert one.freeze().get_structural_hash() == two.get_structural_hash()
    assert ADict(a=[1]).freeze().get_structural_hash() == ADict(a=[2, 3]).get_structural_hash()


def test_structural_hash_tells_empty_nested_and_dotted_apart() -> None:
    """Ato hashes ``{}`` like ``{"a": {}}``, and ``{"a.b": 1}`` like ``{"a": {"b": 1}}``."""
    shapes = [{}, {"a": {}}, {"a": {"b": {}}}, {"a.b": 1}, {"a": {"b": 1}}, {"a": {"b": 1}, "c": {}}, {1: 1}, {"1": 1}]
    assert len({structural_hash(shape) for shape in shapes}) == len(shapes)


def shape(tree: Any) -> Any:
    """What a structural hash is to tell apart, written another way."""
    if isinstance(tree, dict):
        return frozenset((key, shape(value)) for key, value in tree.items())
    return type(tree)


@settings(deadline=None)
@given(TREES, TREES)
def test_equal_hashes_exactly_where_structures_are_equal(one: Any, two: Any) -> None:
    assert (structural_hash(ADict(one)) == structural_hash(two)) == (shape(one) == shape(two))


@settings(deadline=None)
@given(TREES)
def test_plain_data_goes_in_and_comes_out(tree: Any) -> None:
    assert ADict(tree).to_dict() == tree
    assert ADict(tree).freeze() == tree
    auto = ADict.auto()
    auto.merge(tree)
    assert auto == tree
