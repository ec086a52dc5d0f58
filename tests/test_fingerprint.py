"""Fingerprints: what must change them, and what must not."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.fingerprint import Fingerprinter, code_fingerprint, diff_hint, stable_json, structure_hash

Load = Callable[..., types.ModuleType]

BASE = '''
from math import sin, cos
import os as system

RATE = 0.1
TABLE = {"a": 1}
UNUSED = 5

def scale(x):
    """Scale it."""
    return x * RATE

def unrelated(x):
    return x - 1

class Model:
    """A model."""

    width = 4

    def forward(self, x):
        return scale(x) + TABLE["a"]

def train(x, epochs=3):
    """Train."""
    model = Model()
    return model.forward(sin(x)) * epochs
'''


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a module into a directory of its own and import it under one and the same name."""
    numbers = itertools.count()

    def load_module(source: str) -> types.ModuleType:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        file = directory / "mine.py"
        file.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("mine", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
        return module

    return load_module


def prints(load: Load, *sources: str, name: str = "train") -> list[str]:
    """Return the fingerprint of ``name`` in each of the sources (a dotted name reaches into classes)."""
    found = []
    for source in sources:
        what: Any = load(source)
        for part in name.split("."):
            what = getattr(what, part)
        found.append(code_fingerprint(what))
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model = Model()\n", "model = Model()  # make it\n"),
        ('"""Train."""', '"""Train it,\n\n    slowly.\n    """'),
        ('    """Train."""\n', ""),
        ('"""Scale it."""', '"""Other words."""'),
        ('    """A model."""\n', ""),
        ("return x * RATE", "return (x *\n        RATE)"),
        ('TABLE["a"]', "TABLE['a']"),
        ("epochs=3):", "epochs = 3,\n):"),
        ("x - 1", "x - 2"),
        ("UNUSED = 5", "UNUSED = 6"),
        ("import sin, cos", "import sin, tan, cos"),
        ("import os as system", "import sys as system"),
        ("\nRATE = 0.1\n", "\n\n\n# a constant\n\nRATE = 0.1\n\nMORE = 1\n"),
        ("def unrelated", "def not_related"),
    ],
)
def test_what_does_not_count(load: Load, old: str, new: str) -> None:
    assert old in BASE
    one, other = prints(load, BASE, BASE.replace(old, new))
    assert one == other


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* epochs", "+ epochs"),
        ("epochs=3", "epochs=4"),
        ("def train(x, epochs=3)", "def train(x, *, epochs=3)"),
        ("def train(x, epochs=3)", "def train(x: int, epochs=3)"),
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE = 0.05 + 0.05"),
        ("return x * RATE", "return x / RATE"),
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": 1}\n', '{"a": 1}\nTABLE["a"] = 3\n'),
        ("scale(x) +", "scale(x) -"),
        ("width = 4", "width = 5"),
        ("from math import sin, cos", "from cmath import sin, cos"),
        ("from math import sin, cos", "from math import cos as sin"),
        ("TABLE = ", "TABLE = True or "),
    ],
)
def test_what_counts(load: Load, old: str, new: str) -> None:
    assert old in BASE
    one, other = prints(load, BASE, BASE.replace(old, new))
    assert one != other


def test_constants_of_equal_value_and_other_type_differ(load: Load) -> None:
    source = "def train():\n    return {}\n"
    found = prints(load, *(source.format(text) for text in ("1", "1.0", "True", "'1'", "b'1'", "-0.0", "0.0", "None")))
    assert len(set(found)) == len(found)


def test_a_local_of_the_same_name_is_no_reference(load: Load) -> None:
    source = "helper = {}\n\ndef train(x):\n    helper = x\n    x.helper = 1\n    return helper\n"
    one, other = prints(load, source.format(1), source.format(2))
    assert one == other


def test_moving_into_another_file_name_keeps_it(load: Load, tmp_path: Path) -> None:
    one = code_fingerprint(load(BASE).train)
    (tmp_path / "script.py").write_text(BASE + "\nimport sys\nfrom sweep.fingerprint import code_fingerprint\n"
                                        "sys.stdout.write(code_fingerprint(train))\n", encoding="utf-8")  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    shown = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout == one


def test_recursion_and_mutual_recursion_end(load: Load) -> None:
    source = "def even(n):\n    return n == 0 or odd(n - 1)\n\ndef odd(n):\n    return n != {} and even(n - 1)\n"
    one, other = prints(load, source.format(0), source.format(1), name="even")
    assert one != other


METHODS = """
class Base:
    def prepare(self, x):
        return x + 1

class Trainer(Base):
    rate = 0.5

    def train(self, x):
        return self._step(self.prepare(x)) * self.rate

    def _step(self, x):
        return self.deep * x

    @property
    def deep(self):
        return 2

    def prepare(self, x):
        return super().prepare(x) * 3

    def other(self):
        return 9

make = lambda: Trainer().train
bound = Trainer().train
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("return 9", "return 8", True),
        ("self.deep * x", "self.deep - x", False),
        ("return 2", "return 4", False),
        ("x + 1", "x + 2", False),
        ("* 3", "* 4", False),
        ("rate = 0.5", "rate = 0.25", False),
        ("    def other", "    # words\n    def other", True),
    ],
)
def test_a_method_counts_with_what_it_reaches_through_self(load: Load, old: str, new: str, same: bool) -> None:
    assert old in METHODS
    one, other = prints(load, METHODS, METHODS.replace(old, new), name="bound")
    assert (one == other) is same


def test_the_state_of_self_does_not_count(load: Load) -> None:
    module = load(METHODS)
    one, other = module.Trainer(), module.Trainer()
    other.level = 3
    assert code_fingerprint(one.train) == code_fingerprint(other.train)


def test_lambdas_in_one_line_are_told_apart(load: Load) -> None:
    source = "pair = (lambda x: x + 1, lambda x: x + 2, lambda x: x + 1, lambda: lambda x: x + 1)\n"
    one, two, again, outer = load(source).pair
    assert code_fingerprint(one) == code_fingerprint(again) != code_fingerprint(two)
    assert len({code_fingerprint(f) for f in (one, two, outer)}) == 3
    assert code_fingerprint(outer()) == code_fingerprint(one)
    (spaced, *_) = load("pair = (\n    lambda  x: (x+1),  # one\n    lambda x: x + 2)\n").pair
    assert code_fingerprint(spaced) == code_fingerprint(one)


def test_captured_values_and_defaults_count(load: Load) -> None:
    source = "def make(n, extra=None):\n    def train(x, m=n):\n        return x * n, extra\n    return train\n"
    make = load(source).make
    values: list[Any] = [1, 2, 1.0, True, (1,), [1], {"a": 1}, {1}, Path("a"), None, "1", len, int]
    found = [code_fingerprint(make(value)) for value in values]
    assert len(set(found)) == len(found)
    assert code_fingerprint(make({"a": 1, "b": 2})) == code_fingerprint(make({"b": 2, "a": 1}))
    circle: list[Any] = []
    circle.append(circle)
    assert code_fingerprint(make(circle)) == code_fingerprint(make(circle))
    assert code_fingerprint(make(0, object())) == code_fingerprint(make(0, object()))


def test_partials_and_callable_objects(load: Load) -> None:
    source = (
        "class Scaler:\n    def __init__(self, by):\n        self.by = by\n\n"
        "    def __call__(self, x):\n        return x * self.by + {}\n\n"
        "def plain(x, y=1):\n    return x\n"
    )
    module = load(source.format(0))
    partial = functools.partial
    assert code_fingerprint(partial(module.plain, 1)) == code_fingerprint(partial(module.plain, 1))
    assert code_fingerprint(partial(module.plain, 1)) != code_fingerprint(partial(module.plain, 2))
    assert code_fingerprint(partial(module.plain, y=2)) != code_fingerprint(partial(module.plain, y=3))
    assert code_fingerprint(module.Scaler(1)) == code_fingerprint(module.Scaler(1))
    assert code_fingerprint(module.Scaler(1)) != code_fingerprint(module.Scaler(2))
    assert code_fingerprint(module.Scaler(1)) != code_fingerprint(load(source.format(1)).Scaler(1))


def test_decorated_functions_count_with_what_they_wrap(load: Load) -> None:
    source = (
        "import functools\n\n"
        "def twice(f):\n    @functools.wraps(f)\n    def call(*args):\n        return f(*args) * {}\n"
        "    return call\n\n@twice\ndef train(x):\n    return x + {}\n\n@functools.lru_cache(maxsize={})\n"
        "def cached(x):\n    return x + {}\n"
    )
    base = source.format(2, 1, 8, 1)
    assert len(set(prints(load, base, source.format(3, 1, 8, 1), source.format(2, 2, 8, 1)))) == 3
    assert len(set(prints(load, base, source.format(2, 1, 9, 1), source.format(2, 1, 8, 2), name="cached"))) == 3
    assert len(set(prints(load, base, base.replace("+ 1", "+ 1  # one"), name="cached"))) == 1


def test_classes(load: Load) -> None:
    source = (
        "class Base:\n    def run(self):\n        return {}\n\nclass Mine(Base):\n    '''Doc.'''\n    x: int = {}\n"
    )
    found = prints(load, source.format(1, 1), source.format(2, 1), source.format(1, 2), name="Mine")
    assert len(set(found)) == 3
    one, other = prints(load, source.format(1, 1), source.format(1, 1).replace("Doc", "Words"), name="Mine")
    assert one == other


def _executed(source: str, name: str = "train") -> Any:
    space: dict[str, Any] = {"__name__": "nowhere"}
    exec(compile(source, "<cell>", "exec"), space)  # noqa: S102 - how a notebook makes its functions
    return space[name]


def test_functions_without_source_count_by_bytecode() -> None:
    source = "K = 2\n\ndef helper(x):\n    return x * K\n\ndef train(x):\n    'Doc.'\n    return helper(x)\n"
    base = code_fingerprint(_executed(source))
    for same in ("\n\n# moved\n" + source, source.replace("Doc", "Other"), source + "\nL = 3\n"):
        assert code_fingerprint(_executed(same)) == base
    for different in (
        source.replace("K = 2", "K = 3"),
        source.replace("x * K", "x + K"),
        source.replace("return helper(x)", "return helper(-x)"),
    ):
        assert code_fingerprint(_executed(different)) != base


def test_helpers_in_another_cell_count() -> None:
    found = []
    for constant in (1, 2):
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(f"def helper(x):\n    return x + {constant}\n", "<cell 1>", "exec"), space)  # noqa: S102 - as above
        exec(compile("def train(x):\n    return helper(x)\n", "<cell 2>", "exec"), space)  # noqa: S102 - as above
        found.append(code_fingerprint(space["train"]))
    assert found[0] != found[1]


def test_a_file_edited_after_its_import_does_not_speak_for_the_loaded_code(load: Load) -> None:
    module = load(BASE)
    before = code_fingerprint(module.train)
    Path(str(module.__file__)).write_text(BASE.replace("* epochs", "- epochs"), encoding="utf-8")
    edited = code_fingerprint(module.train)
    assert edited != before
    assert edited != prints(load, BASE.replace("* epochs", "- epochs"))[0]


def test_lambdas_swapped_in_the_file_after_its_import_are_not_taken_for_each_other(load: Load) -> None:
    module = load("pair = (lambda x: x + 1, lambda x: x + 2)\n")
    one, two = map(code_fingerprint, module.pair)
    Path(str(module.__file__)).write_text("pair = (lambda x: x + 2, lambda x: x + 1)\n", encoding="utf-8")
    assert code_fingerprint(module.pair[0]) not in (one, two)


def test_methods_from_other_modules_do_not_count(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for constant in (1, 2):
        library = types.ModuleType("library")
        exec(f"class Base:\n    def prepare(self, x):\n        return x + {constant}\n", library.__dict__)  # noqa: S102 - a module in memory
        monkeypatch.setitem(sys.modules, "library", library)
        source = (
            "import library\n\nclass Mine(library.Base):\n    def train(self, x):\n        return self.prepare(x)\n"
        )
        found.append(code_fingerprint(load(source).Mine().train))
    assert found[0] == found[1]


def test_nothing_of_a_captured_object_runs(load: Load) -> None:
    class Trap:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        def __repr__(self) -> str:
            raise AssertionError

    class Text(str):
        __slots__ = ()

        def __repr__(self) -> str:
            raise AssertionError

    make = load("def make(n):\n    return lambda: n\n").make
    assert code_fingerprint(make(Trap())) != code_fingerprint(make(Text("a")))


def test_builtins_go_by_name() -> None:
    assert code_fingerprint(len) == code_fingerprint(len)
    assert len({code_fingerprint(f) for f in (len, max, dict, int, str.upper, [].append)}) == 6


def test_one_fingerprinter_agrees_with_fresh_ones_in_any_order(load: Load) -> None:
    module = load(BASE)
    shared = Fingerprinter()
    for name in ("train", "Model", "scale", "unrelated", "train"):
        assert shared.code_fingerprint(getattr(module, name)) == code_fingerprint(getattr(module, name))


def test_where_it_is_defined(load: Load) -> None:
    module = load(BASE)
    line = BASE.splitlines().index("def train(x, epochs=3):") + 1
    assert diff_hint(module.train) == f"{module.__file__}:{line}"
    assert diff_hint(functools.partial(module.train, 1)) == f"{module.__file__}:{line}"
    line = BASE.splitlines().index("class Model:") + 1
    assert diff_hint(module.Model) == diff_hint(module.Model()) == f"{module.__file__}:{line}"
    assert diff_hint(len) == "builtins.len"
    assert diff_hint(int) == "builtins.int"


def test_stable_json() -> None:
    assert (
        stable_json({"b": [1, 2.5, None], "a": {"z": True, "y": "ü"}})
        == '{"a":{"y":"\\u00fc","z":true},"b":[1,2.5,null]}'
    )
    assert structure_hash((1, 2)) == structure_hash([1, 2]) != structure_hash([2, 1])
    assert structure_hash(1) != structure_hash(1.0)
    for wrong in ({1: 2}, {"a": [{None: 1}]}, {"a": {1, 2}}, object()):
        with pytest.raises(TypeError):
            stable_json(wrong)
