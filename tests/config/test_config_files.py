"""Config files read back exactly; what a format cannot hold is refused; nothing is run."""

from __future__ import annotations

import datetime
import enum
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep.config import ADict
from sweep.config.files import read, write
from sweep.config.xyz import dumps, loads
from sweep.errors import ConfigError, ConfigFileMissing

ROOT = Path(__file__).parents[2]

TRAPS = [
    "true",
    "None",
    "1",
    "1e5",
    "1.",
    ".5",
    "0x1",
    "12:30",
    "2024-01-02",
    "a: b",
    "- a",
    "[x",
    "on",
    "~",
    "null",
    "",
]
TRAPS += [
    "[Empty Mapping]",
    "0) x",
    '"q"',
    " lead",
    "trail ",
    "#c",
    "line\nbreak",
    "tab\t",
    "é\u2028\x85",
    "key:",
    "=",
    "<<",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(TRAPS)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats()
SCALARS = st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
TREES = st.dictionaries(TEXT, VALUES, max_size=4)
WITH_NONE = st.dictionaries(TEXT, st.none() | VALUES | st.lists(st.none() | SCALARS, max_size=2), max_size=4)


def same(one: Any, two: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, -0.0 from 0.0, and knows nan."""
    if isinstance(one, dict) and isinstance(two, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, float) and isinstance(two, float):
        return repr(one) == repr(two)
    return type(one) is type(two) and one == two


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml", "toml", "xyz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(tree=TREES)
def test_round_trip(suffix: str, tree: Any, tmp_path: Path) -> None:
    write(tmp_path / f"c.{suffix}", tree)
    found = read(tmp_path / f"c.{suffix}")
    if suffix == "toml":  # TOML writes plain values of a table before its sub-tables
        assert same(sorted_keys(found), sorted_keys(tree))
    else:
        assert same(found, tree)


def sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("suffix", ["json", "yaml", "xyz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(tree=WITH_NONE)
def test_round_trip_with_none(suffix: str, tree: Any, tmp_path: Path) -> None:
    write(tmp_path / f"c.{suffix}", tree)
    assert same(read(tmp_path / f"c.{suffix}"), tree)


def test_an_adict_goes_through_every_format(tmp_path: Path) -> None:
    config = ADict(lr=1e-5, layers=[64, 128], model={"backbone": "resnet50", "on": True, "parts": [{"a": 1}]})
    for suffix in ("json", "yaml", "yml", "toml", "xyz"):
        path = tmp_path / "deep" / "folder" / f"c.{suffix}"
        config.freeze().dump(path)
        assert ADict.from_file(path) == config
        loaded = ADict(lr=1, seed=2)
        loaded.load(str(path))
        assert loaded == {"seed": 2, **config}


def test_dates_survive_where_the_format_has_them(tmp_path: Path) -> None:
    day, moment = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4, 5)
    for suffix in ("yaml", "toml"):
        ADict(day=day, moment=moment, text="2024-01-02").dump(tmp_path / f"c.{suffix}")
        assert ADict.from_file(tmp_path / f"c.{suffix}") == {"day": day, "moment": moment, "text": "2024-01-02"}
    with pytest.raises(ConfigError, match=r"'day' is a datetime.date"):
        ADict(day=day).dump(tmp_path / "c.json")


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("suffix", "value", "said"),
    [
        ("toml", {"a": {"b": [1, None]}}, r"'a.b\[1\]' is None"),
        ("json", {"a": object()}, "'a' is a builtins.object"),
        ("yaml", {"a": {1, 2}}, "'a' is a builtins.set"),
        ("xyz", {"a": Colour.RED}, "Colour"),
        ("json", {"m": {1: "x"}}, "'m.1' is a int"),
        ("txt", {}, "suffix"),
        ("toml", {"a": "\ud800"}, "Unicode"),
    ],
)
def test_what_cannot_be_written_is_named_and_nothing_is_written(
    suffix: str, value: Any, said: str, tmp_path: Path
) -> None:
    path = tmp_path / f"c.{suffix}"
    path.write_text("old")
    with pytest.raises(ConfigError, match=said):
        ADict(value).dump(path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"a": 1,\n}', r"a.json:2"),
        ("a.json", '{"a": 1, "a": 2}', "'a' stands there twice"),
        ("a.json", "[1]", "holds a mapping"),
        ("a.json", "[" * 100_000, "a.json"),
        ("a.yaml", "a: 1\nb: [1\n", r"a.yaml:3"),
        ("a.yaml", "a: 1\na: 2\n", "'a' stands there twice"),
        ("a.yaml", "a: &a [*a]\n", "without end"),
        ("a.yaml", "a: !!python/object/apply:os.mkdir [made]\n", r"a.yaml:1.*python"),
        ("a.yaml", "a: !!python/name:os.system\n", r"a.yaml:1.*python"),
        ("a.toml", "a = 1\nb = \n", "line 2"),
        ("a.xyz", "a: 1\nb\n", r"a.xyz:2"),
        ("a.xyz", "a: 1\n  b: 2\n", r"a.xyz:2"),
        ("a.xyz", "a:\n  0) 1\n  2) 2\n", "numbered"),
        ("a.xyz", "a: 1\na: 2\n", r"a.xyz:2"),
        ("a.xyz", 'a: "x\n', r"a.xyz:1"),
        ("a.ini", "", "suffix"),
    ],
)
def test_malformed_files_are_named_with_their_line(
    name: str, text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        ADict.from_file(name)
    assert not Path("made").exists()


def test_alias_bombs_are_refused(tmp_path: Path) -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9))
    (tmp_path / "bomb.yaml").write_text(f"l0: &l0 [1]\n{levels}\n")
    with pytest.raises(ConfigError, match="without end"):
        read(tmp_path / "bomb.yaml")


def test_missing_file_names_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text("{}")
    with pytest.raises(ConfigFileMissing, match=r"did you mean 'baseline.json'"):
        ADict.from_file(tmp_path / "baselin.json")
    with pytest.raises(FileNotFoundError):
        ADict.from_file(tmp_path / "none" / "x.yaml")


def test_yaml_numbers_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("lr: 1e-5\nbig: 1E6\ntext: '1e-5'\nempty:\n")
    assert read(tmp_path / "c.yaml") == {"lr": 1e-5, "big": 1e6, "text": "1e-5", "empty": None}


def test_xyz_reads_what_ato_writes_and_keeps_what_ato_loses() -> None:
    xyz = pytest.importorskip("ato.xyz")
    data = {
        "lr": 0.1,
        "n": None,
        "on": True,
        "name": "res net",
        "layers": [1, 2],
        "m": {"e": {}, "l": [], "d": [[1], {"a": 1}]},
    }
    assert loads(xyz.dumps(data)) == data == xyz.loads(xyz.dumps(data))
    assert loads(dumps(data)) == data == xyz.loads(dumps(data))
    hard = {"num": "12", "neg": -5, "empty": "", "colon": "a: b", "small": 1e-07}
    assert xyz.loads(xyz.dumps(hard)) != hard  # Ato reads "12" as a number, -5 as text, splits at the colon
    assert loads(dumps(hard)) == hard
    assert math.isnan(loads(dumps({"x": math.nan}))["x"])


CUT = """
import resource, signal, sys
from sweep.config import ADict
from sweep.errors import ConfigError
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # a file may not grow beyond: as on a full disk
if sys.argv[2] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
try:
    ADict(layers=list(range(20000))).dump(sys.argv[1])
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", ["json", "yaml", "toml", "xyz"])
@pytest.mark.parametrize("how", ["failed", "killed"])
def test_a_write_that_is_cut_short_leaves_the_old_file_whole(tmp_path: Path, suffix: str, how: str) -> None:
    file = tmp_path / f"kept.{suffix}"
    ADict(lr=0.1, model={"depth": 50}).dump(file)
    before = file.read_bytes()
    command = [sys.executable, "-c", CUT, str(file), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})  # our own script
    assert done.returncode == (-signal.SIGXFSZ if how == "killed" else 0), done.stderr
    assert how == "killed" or f"config file '{file}' cannot be written" in done.stdout
    assert file.read_bytes() == before
    left = [path.name for path in tmp_path.iterdir() if path != file]
    assert [name.endswith(".part") for name in left] == ([True] if how == "killed" else []), "only a kill leaves its half"
    ADict(lr=0.2).dump(file)
    assert ADict.from_file(file) == {"lr": 0.2}


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    ADict(lr=0.1).dump(real)
    real.chmod(0o640)
    link.symlink_to(real)
    ADict(lr=0.2).dump(link)
    assert link.is_symlink()
    assert ADict.from_file(real) == {"lr": 0.2}
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/x\.json' cannot be written"):
        ADict(lr=0.2).dump(tmp_path / "file" / "x.json")
