"""The words of a command line: read by type, never evaluated; search ranges."""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.config import parse_value, split_search
from sweep.config.commandline import parse_arguments
from sweep.errors import ConfigError, UnknownName
from sweep.space import Choice, Integer, LogInteger, LogitUniform, LogUniform, Normal, Ordinal, Uniform

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abz", min_size=1), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.01", 0.01),
        ("1e-5", 1e-5),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("007", "007"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("None", None),
        ("inf", math.inf),
        ("resnet101", "resnet101"),
        ("%resnet101%", "resnet101"),
        ("%12%", "12"),
        ("%%", ""),
        ("%", "%"),
        ("", ""),
        ('"a b"', "a b"),
        ("'it\\'s'", "it's"),
        ('"a\\nb\\d"', "a\nb\\d"),
        ("[64,128, 256]", [64, 128, 256]),
        ("[]", []),
        ("(0.9,0.99)", (0.9, 0.99)),
        ("[a, %1%, 'x,y', [true]]", ["a", "1", "x,y", [True]]),
        ("{a: 1, 'b c': [x], d: {}}", {"a": 1, "b c": ["x"], "d": {}}),
        ("[1,]", [1]),
        ("a=b", "a=b"),
        ("http://x.y/z?q", "http://x.y/z?q"),
        ("a,b", "a,b"),
        ("__import__('os').system('x')", "__import__('os').system('x')"),
        ("[__import__('os')]", ["__import__('os')"]),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@settings(deadline=None)
@given(JSON)
def test_reads_whatever_json_writes(value: Any) -> None:
    assert parse_value(json.dumps(value)) == value


@settings(deadline=None)
@given(st.text())
def test_percent_signs_force_any_text(text: str) -> None:
    assert parse_value(f"%{text}%") == text


@settings(deadline=None)
@given(st.text(alphabet="[](){}:,%'\"ab1 \\", max_size=20))
def test_any_text_is_a_value_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_value(text)


@pytest.mark.parametrize(
    "text", ["[1", "[1]]", "{a}", "{a:1,a:2}", "'x", "'it''", "[1,,2]", "[1 , ]x", "{:1}", "[" * 70 + "]" * 70]
)
def test_malformed_literals_are_errors_that_say_how_to_write_text(text: str) -> None:
    with pytest.raises(ConfigError, match="between % signs"):
        parse_value(text)


def test_words_are_sorted() -> None:
    found = parse_arguments(["big", "lr=1", "--config", "a.yaml", "--config=b.yaml", "layers=[1,", "2]", "s=a=b"])
    assert found.views == ["big"]
    assert found.files == ["a.yaml", "b.yaml"]
    assert [(item.path, item.value) for item in found.assignments] == [
        (("lr",), 1),
        (("layers",), [1, 2]),
        (("s",), "a=b"),
    ]
    assert not found.manual
    assert parse_arguments(["lr=1", "manual"]).manual


@pytest.mark.parametrize("words", [["--verbose"], ["--lr=1"], ["-x"], ["lr=1", "--confg", "x"]])
def test_unknown_flags_are_errors(words: list[str]) -> None:
    with pytest.raises(UnknownName, match="unknown flag"):
        parse_arguments(words)


@pytest.mark.parametrize("word", ["=1", "a..b=1", ".a=1", "a.=1", "a[0]=1", "a b=1"])
def test_malformed_keys(word: str) -> None:
    with pytest.raises(ConfigError, match="is no key"):
        parse_arguments([word])
    with pytest.raises(ConfigError, match=r"write key=value .*without spaces round the ="):
        parse_arguments(["lr", "=", "3"])
    with pytest.raises(ConfigError, match="needs a file"):
        parse_arguments(["--config"])


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("lr=log(1e-1,1e-5)", "low=0.1 is above high=1e-05"),
        ("lr=log(0,1)", "needs low > 0"),
        ("lr=uniform(a,b)", "low='a' .*expected a number; high='b'"),
        ("lr=choice()", "no options"),
        ("lr=uniform(0,1", r"the closing \) is missing"),
    ],
)
def test_a_wrong_range_is_named_as_typed(word: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(repr(word))}: .*{problem}"):
        split_search(["big", word])


def test_search_ranges_become_the_engines_objects() -> None:
    words, ranges = split_search(
        [
            "view",
            "lr=log(1e-5,1e-1)",
            "width=log(16,128)",
            "drop=uniform(0,0.5,num=6)",
            "depth=50,101",
            "model.name=a,%b,c%",
            "layers=[1,2],[3]",
            "n=int(1,8)",
            "size=ordinal(1,2,4)",
            "which=choice(x,y)",
            "noise=normal(0,1)",
            "momentum=logit(0.5,0.999)",
            "seed=1",
            "name=%a,b%",
            "text='a,b'",
            "plain=[1,2]",
            "call=resnet(50)",
        ]
    )
    assert words == ["view", "seed=1", "name=%a,b%", "text='a,b'", "plain=[1,2]", "call=resnet(50)"]
    assert ranges == {
        "lr": LogUniform(1e-5, 1e-1),
        "width": LogInteger(16, 128),
        "drop": Uniform(0, 0.5, num=6),
        "depth": Choice([50, 101]),
        "model.name": Choice(["a", "b,c"]),
        "layers": Choice([[1, 2], [3]]),
        "n": Integer(1, 8),
        "size": Ordinal([1, 2, 4]),
        "which": Choice(["x", "y"]),
        "noise": Normal(0, 1),
        "momentum": LogitUniform(0.5, 0.999),
    }


def test_wrong_ranges_are_errors() -> None:
    with pytest.raises(UnknownName, match="did you mean 'uniform'"):
        split_search(["lr=unifrom(0,1)"])
    with pytest.raises(ConfigError, match=r"lr=uniform\(1\)"):
        split_search(["lr=uniform(1)"])


def test_a_range_with_too_few_bounds_says_what_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"'lr=log\(1e-5\)': expected log\(low, high, \[num=\]\)"):
        split_search(["lr=log(1e-5)"])
