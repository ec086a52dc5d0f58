"""How a search space is written, refused, compared, copied and stored."""

# mypy: disable-error-code="arg-type"
# Wrong arguments are what half of these tests are about.

from __future__ import annotations

import json
import math
import pickle
import random
from typing import Any

import pytest

from sweep.errors import SpaceError
from sweep.space import (
    Choice,
    Constant,
    Distribution,
    Integer,
    LogInteger,
    LogitUniform,
    LogNormal,
    LogUniform,
    Normal,
    Ordinal,
    SearchSpace,
    Uniform,
)

EVERY_KIND: dict[str, Any] = {
    "uniform": Uniform(-1, 3, num=3),
    "log_uniform": LogUniform(1e-5, 1e-1, num=5),
    "logit_uniform": LogitUniform(0.5, 0.999, num=3),
    "integer": Integer(-3, 11, step=4),
    "log_integer": LogInteger(1, 1000, num=4),
    "choice": Choice(["a", 1, 1.0, True, None, [1, 2], (1, 2), {"k": 1}, math.inf, "1"]),
    "ordinal": Ordinal(["low", "mid", "high"]),
    "normal": Normal(3, 2, num=4),
    "log_normal": LogNormal(-1, 0.5, num=2),
    "constant": Constant({"$tuple": [1]}),
    "child": Integer(1, 4, when=("ordinal", ["low", "high"])),
    "grandchild": Choice([1, 2], when=[("child", [2, 3]), ("choice", ["a", None, [1, 2]])]),
}


def error_of(mapping: Any) -> SpaceError:
    with pytest.raises(SpaceError) as caught:
        SearchSpace(mapping)
    return caught.value


def test_nested_and_dotted_are_the_same_in_any_order() -> None:
    nested = SearchSpace(
        {"model": {"kind": Choice(["a", "b"]), "opt": {"lr": Uniform(0, 1, when=("kind", "a"))}}, "seed": 3}
    )
    dotted = SearchSpace(
        {"seed": Constant(3), "model.opt.lr": Uniform(0.0, 1.0, when=[("model.kind", ["a"])]),
         "model": {"kind": Choice(("a", "b"))}}
    )  # fmt: skip
    assert nested == dotted
    assert hash(nested) == hash(dotted)
    assert nested.model_dump_json() == dotted.model_dump_json()
    assert nested.names == dotted.names == ("model.kind", "model.opt.lr", "seed")
    assert nested.sample(random.Random(5)) == dotted.sample(random.Random(5))
    assert list(nested.dimensions) == ["model.kind", "model.opt.lr"]
    assert SearchSpace(nested) == nested
    assert SearchSpace({"outer": nested})["outer.model.opt.lr"].conditions == (("outer.model.kind", ("a",)),)
    assert nested != SearchSpace({**dotted, "seed": 3.0})
    assert nested != {"seed": 3}


def test_json_keeps_types_and_is_readable() -> None:
    space = SearchSpace(EVERY_KIND)
    again = SearchSpace.from_json(space.model_dump_json())
    assert again == space
    assert repr(again) == repr(space)
    options = again["choice"].grid()
    assert options is not None
    assert [type(o) for o in options] == [str, int, float, bool, type(None), list, tuple, dict, float, str]
    assert again.validate({**again.sample(random.Random(0))})["constant"] == {"$tuple": [1]}
    one = SearchSpace({"lr": LogUniform(1e-5, 0.1, when=("o", ["sgd"])), "o": Choice(["sgd", "adam"])})
    assert json.loads(one.model_dump_json()) == {
        "lr": {"type": "LogUniform", "low": 1e-5, "high": 0.1, "when": [["o", ["sgd"]]]},
        "o": {"type": "Choice", "options": ["sgd", "adam"]},
    }
    assert "Infinity" not in space.model_dump_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "object of parameters"),
        ('{"x": 3}', "'x'.*no distribution"),
        ('{"x": {"type": "Unifrom", "low": 0, "high": 1}}', "did you mean 'Uniform'"),
        ('{"x": {"type": "Uniform", "low": 0}}', "'x'.*high"),
        ('{"x": {"type": "Uniform", "low": 0, "high": 1, "nmu": 3}}', "nmu"),
        ('{"x": {"type": "Uniform", "low": 1, "high": 0}}', "'x'.*swap"),
        ('{"x": {"type": "Choice", "options": [{"$set": []}]}}', r"'x'.*unknown tag '\$set'"),
        ('{"x": {"type": "Choice", "options": [1], "when": 3}}', "'x'"),
    ],
)
def test_wrong_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_json(text)


def test_reprs_are_what_one_would_write() -> None:
    for part in EVERY_KIND.values():
        names = {kind.__name__: kind for kind in Distribution.__subclasses__()}
        names |= {k.__name__: k for base in list(names.values()) for k in base.__subclasses__()}
        assert eval(repr(part), names | {"inf": math.inf}) == part  # noqa: S307  # our own text
    assert (
        repr(Integer(1, 9, 2, num=3, when=("a", {"y", "x"}))) == "Integer(1, 9, step=2, num=3, when=('a', ['x', 'y']))"
    )
    assert repr(Choice([1], when=[("b", 1), ("a", 2)])) == "Choice([1], when=[('a', [2]), ('b', [1])])"


def test_equality_minds_types_and_distributions_hash() -> None:
    assert Choice([1, 0]) != Choice([True, False])
    assert Choice([1]) != Choice([1.0])
    assert Choice(["a"]) != Ordinal(["a"])
    assert Choice([1, 2]) == Choice(range(1, 3))
    assert Uniform(0, 1) == Uniform(0.0, 1.0)
    assert Uniform(0, 1) != Uniform(0, 1, num=3)
    assert Uniform(0, 1) != 3
    assert Choice([1], when=("a", [2, 1])) == Choice([1], when=[("a", (1, 2, 1))])
    assert len({Integer(1, 2), Integer(1, 2), Integer(1, 2, when=("a", 1)), Integer(1, 2, when=None)}) == 2
    with pytest.raises(AttributeError):
        Uniform(0, 1).low = 3  # type: ignore[misc]  # the point: it is frozen


def test_spaces_and_distributions_pickle() -> None:
    space = SearchSpace(EVERY_KIND)
    space.sample(random.Random(0))
    assert pickle.loads(pickle.dumps(space)) == space  # our own bytes
    assert pickle.loads(pickle.dumps(space["normal"])) == space["normal"]  # our own bytes


def test_numpy_scalars_and_generators_work() -> None:
    import numpy as np

    space = SearchSpace(
        {"x": Uniform(np.float32(0), np.int64(1)), "n": Integer(np.int64(1), 9), "c": Choice(np.array([16, 32]))}
    )
    assert space == SearchSpace({"x": Uniform(0, 1), "n": Integer(1, 9), "c": Choice([16, 32])})
    params = space.sample(np.random.default_rng(0))
    assert {type(value) for value in params.values()} == {float, int}
    assert space.validate({"x": np.float64(0.5), "n": np.int32(3), "c": np.int64(16)}) == {"x": 0.5, "n": 3, "c": 16}
    assert space.from_unit(np.array([0.1, 0.1, 0.5]))["x"] == 0.5
    assert SearchSpace({"lr": Choice(np.logspace(-3, -1, 3))}).model_dump_json()


def test_no_change_from_outside_reaches_a_space() -> None:
    layers = [64, 64]
    space = SearchSpace({"layers": Choice([layers, [32]]), "fixed": Constant({"a": [1]})})
    text = space.model_dump_json()
    layers.append(1)
    for params in [*space.grid(), space.sample(random.Random(0)), space.from_unit([0.1])]:
        params["layers"].append(3)
        params["fixed"]["a"].append(3)
    good = {"layers": [64, 64], "fixed": {"a": [1]}}
    space.validate(good)["layers"].append(3)
    assert good["layers"] == [64, 64]
    assert SearchSpace(dict(space)).model_dump_json() == text
    assert [params["layers"] for params in space.grid()] == [[64, 64], [32]]


def test_the_dictionary_form_of_ato_is_read() -> None:
    ato = {
        "lr": {"param_type": "FLOAT", "param_range": (1e-5, 1e-1), "num_samples": 20, "space_type": "LOG", "base": 10},
        "batch_size": {"param_type": "INTEGER", "param_range": [16, 128], "num_samples": 5, "space_type": "LOG"},
        "model": {"param_type": "category", "categories": ["resnet50", "resnet101"]},
        "net": {"dropout": {"param_type": "FLOAT", "param_range": (0, 0.5)}},
        "depth": {"param_type": "INTEGER", "param_range": (1, 9), "num_samples": 3, "space_type": "LINEAR"},
    }
    space = SearchSpace(ato)
    assert space == SearchSpace(
        {
            "lr": LogUniform(1e-5, 1e-1, num=20),
            "batch_size": LogInteger(16, 128, num=5),
            "model": Choice(["resnet50", "resnet101"]),
            "net.dropout": Uniform(0, 0.5),
            "depth": Integer(1, 9, num=3),
        }
    )
    assert space["batch_size"].grid() == (16, 27, 45, 76, 128)
    for wrong, message in [
        ({"param_type": "FLAOT"}, "FLOAT, INTEGER or CATEGORY"),
        ({"param_type": "FLOAT"}, "param_range"),
        ({"param_type": "FLOAT", "param_rnage": (0, 1)}, "did you mean 'param_range'"),
        ({"param_type": "FLOAT", "param_range": (0, 1), "space_type": "LOG"}, "low > 0"),
        ({"param_type": "FLOAT", "param_range": (0, 1), "space_type": "LGO"}, "LINEAR or LOG"),
        ({"param_type": "CATEGORY"}, "categories"),
    ]:
        error = error_of({"p": wrong})
        assert message in str(error)
        assert error.parameter == "p"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Uniform(1, 0), "swap"),
        (Uniform(1, 1), r"Constant\(1.0\)"),
        (Integer(3, 3), r"Constant\(3\)"),
        (LogUniform(0, 1), "low > 0"),
        (LogUniform(-1, 1), "low > 0"),
        (LogInteger(0, 4), "low > 0"),
        (Uniform(math.nan, 1), "low=nan.*finite"),
        (Uniform(0, math.inf), "high=inf.*finite"),
        (Uniform(0, 10**400), "high="),
        (Uniform(True, 2), "low=True.*number"),
        (Uniform("0", 2), "low='0'.*number"),
        (Integer(False, 2), "low=False.*whole"),
        (Integer(1.0, 2), r"low=1.0 \(float\).*whole"),
        (Integer(1, 9, step=0), "step=0"),
        (Integer(1, 9, step=9), "step=9"),
        (Integer(1, 9, step=True), "step=True"),
        (Integer(0, 2**40), "larger step"),
        (LogInteger(2**40, 2**41), "2\\*\\*40"),
        (Uniform(0, 1, num=0), "num=0"),
        (Uniform(0, 1, num=True), "num=True"),
        (Integer(0, 9, num=2.0), "num=2.0"),
        (Normal(0, 0), "std=0.0"),
        (Normal(0, -1), "std=-1.0"),
        (Normal(math.inf, 1), "mean=inf"),
        (Normal(1e308, 1e308), "range of floats"),
        (LogitUniform(0, 0.5), "log odds need 0 < low"),
        (LogitUniform(0.5, 1), "high < 1: or use Uniform"),
        (LogNormal(1000, 1), "natural logarithm"),
        (Choice([]), "at least one"),
        (Choice([1, 2, 1]), "option 2 .*repeats option 0"),
        (Choice([[1], [1]]), "repeats"),
        (Choice("abc"), r"Choice\(\[…\]\)"),
        (Choice({"a", "b"}), "order"),
        (Choice({"a": 1}), "list"),
        (Choice(3), "list"),
        (Choice([math.nan]), "NaN"),
        (Choice([1, print]), "option 1.*names.*objective"),
        (Choice([random.Random]), "the class.*names"),
        (Choice([{1: 2}]), "not text"),
        (Choice([[{2}]]), "set"),
        (Constant(object()), "names"),
        (Uniform, "the class Uniform.*with its arguments"),
        (object(), "no distribution.*LogUniform"),
        ([1, 2, 3], r"more than one way: write Choice.*Constant"),
        ((1e-5, 1e-1), r"write Uniform\(low, high\)"),
        ({}, "empty"),
        (Uniform(0, 1, when="opt"), "when='opt': write"),
        (Uniform(0, 1, when=("opt",)), "write when"),
        (Uniform(0, 1, when={"opt": "sgd"}), "write when"),
        (Uniform(0, 1, when=("opt", [])), "no value"),
        (Uniform(0, 1, when=[("opt", "sgd"), ("opt", "adam")]), "twice"),
        (Uniform(0, 1, when=("opt", [print])), "names"),
        (Uniform(0, 1, when=("optt", "sgd")), "no parameter 'optt'; did you mean 'opt'"),
        (Uniform(0, 1, when=("zzz", "sgd")), "no parameter 'zzz'; there are"),
        (Uniform(0, 1, when=("opt", "sgdd")), "never 'sgdd'.*did you mean 'sgd'"),
        (Uniform(0, 1, when=("flag", [1])), "never 1, it is one of True, False"),
        (Uniform(0, 1, when=("lr", [0.5])), "'lr' is continuous"),
        (Uniform(0, 1, when=("x", [0.5])), "itself"),
    ],
)
def test_every_mistake_names_the_parameter_and_the_remedy(value: Any, message: str) -> None:
    others = {"opt": Choice(["sgd", "adam"]), "flag": Choice([True, False]), "lr": Uniform(0, 1)}
    with pytest.raises(SpaceError, match=f"^parameter 'x': .*{message}") as caught:
        SearchSpace({**others, "x": value})
    assert caught.value.parameter == "x"


def test_wrong_names_are_refused() -> None:
    for mapping, message in [
        ({"a": 1, "a.b": 2}, "parameter 'a.b': clashes with parameter 'a'"),
        ({"a": {"b": {"c": 1}}, "a.b": 2}, "parameter 'a.b.c': clashes with parameter 'a.b'"),
        ({"a": {"b": 1}, "a.b": 2}, "'a.b': is defined twice"),
        ({3: Uniform(0, 1)}, "the name 3 (int) is not text"),
        ({"a": {None: 1}}, "the name None (NoneType) is not text"),
        ({"": 1}, "'' is no name"),
        ({"a..b": 1}, "'a..b' is no name"),
        ({" a": 1}, "' a' is no name"),
        ([("a", 1)], "a mapping of names"),
        (None, "a mapping of names"),
    ]:
        assert message in str(error_of(mapping))


def test_all_problems_come_in_one_error() -> None:
    error = error_of({"b": Uniform(1, 0), "a": {"c": Choice([]), 1: 2}, "d": LogUniform(0, 1, when=("e", 1)), "ok": 1})
    for text in (
        "5 problems",
        "'b': low=1.0",
        "'a.c': has no options",
        "the name 1",
        "'d': low=0",
        "'d': when: there is",
    ):
        assert text in str(error)
    assert error.parameter


def test_circles_of_conditions_are_refused() -> None:
    def child(*parents: str) -> Choice:
        return Choice([1, 2], when=[(parent, 1) for parent in parents])

    error = error_of({"a": child("c"), "b": child("a"), "c": child("b"), "d": child("a"), "e": child()})
    assert "circle: a -> c -> b -> a" in str(error)
    assert "'d'" not in str(error)
