"""``FILE[:NAME] key=value …``: a user's file imported, and what is to be run in it."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import sys
import typing
import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, final

from sweep.cli.faults import LoadError, NotThere
from sweep.config.commandline import Arguments, joined, parse_arguments, sources
from sweep.errors import ConfigError, ContractError, UnknownName, did_you_mean, near_miss

if TYPE_CHECKING:
    from sweep.experiments.given import Given

__all__ = ["Target", "check_given", "find_targets", "load_target", "module_of", "parse_scope", "split"]


Places = dict[str, list[str]]  # where the values of each key are from, the lowest source first


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Something that can be run.

    Attributes:
        what: A Pipeline, or an Experiment.
        name: Its name in the file.
        file: Absolute path of the file.
        inputs: Values for its inputs.
        places: Where these, and arguments of what made it, are from; a run keeps the rest itself.
    """

    what: Any
    name: str
    file: str
    inputs: Mapping[str, object] = field(default_factory=dict)
    places: Places = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``pipeline``, ``experiment`` or ``sweep``."""
        return str(getattr(self.what, "level", "pipeline"))


# ---------------------------------------------------------------- files


def split(reference: str) -> tuple[Path, str]:
    """Split ``FILE[:NAME]``.

    Raises:
        NotThere: There is no such file.

    Example:
        >>> split(f"{__file__}:Target")[1]
        'Target'
    """
    path, _, name = reference.rpartition(":") if ":" in reference else (reference, "", "")
    if not path or (name and not name.replace(".", "_").isidentifier()):
        path, name = reference, ""
    file = Path(path)
    if file.is_dir():
        raise NotThere(f"{path!r} is a directory; name a .py file in it")
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else Path()
        known = [one.name for one in folder.glob("*.py")]
        raise NotThere(f"there is no file {path!r}{did_you_mean(file.name, known)}")
    return file.resolve(), name


def module_of(file: Path) -> ModuleType:
    """Import a file as a module under its own name, without its ``__main__`` block.

    Raises:
        ConfigError: Its name would hide another module.
        LoadError: It raised; the cause is what it raised.
    """
    name, root = _module_name(file)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    if known is not None or name in sys.stdlib_module_names:
        raise ConfigError(f"{file}: the module name {name!r} is taken by {_home(known)}; rename the file")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is no Python file; name a .py file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SystemExit) and error.code not in (130, 143):
            raise LoadError(f"{file} ended the program while it was imported: sys.exit({error.code!r})") from error
        if isinstance(error, Exception) and not type(error).__module__.startswith("sweep."):
            raise LoadError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
        raise
    return module


def _home(module: ModuleType | None) -> str:
    return "Python's own library" if module is None else str(getattr(module, "__file__", None) or "Python itself")


def _module_name(file: Path) -> tuple[str, Path]:
    """Return the dotted name by which a file is imported, and the directory it is imported from."""
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts), folder


# ---------------------------------------------------------------- names


def find_targets(module: ModuleType) -> dict[str, Any]:
    """Return what can be run in a module by name: pipelines, experiments, experiment classes of its own."""
    from sweep.experiments.base import Experiment
    from sweep.pipeline.builder import Pipeline

    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    found = {name: value for name, value in public.items() if isinstance(value, Pipeline | Experiment)}
    made = {type(value) for value in found.values()}
    for name, value in public.items():
        own = isinstance(value, type) and issubclass(value, Experiment) and value.__module__ == module.__name__
        if own and value not in made:
            found[name] = value
    return found


def load_target(reference: str, words: Sequence[str] = (), prefix: str | None = None) -> Target:
    """Import ``FILE[:NAME]`` and give it the values of words, of ``--config FILE``, and of variables with a prefix.

    Raises:
        NotThere: No such file, or no such name in it.
        ConfigError: Several could be meant; a value does not fit; an unknown key.
        LoadError: The file raised when it was imported.
    """
    file, name = split(reference)
    module = module_of(file)
    name = name or _only(file, find_targets(module))
    what = _named(module, file, name)
    return _built(what, name, file, words, prefix)


def _only(file: Path, found: Mapping[str, object]) -> str:
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise NotThere(
            f"{file.name} has no Pipeline or Experiment at its top level; define one, or name a function that returns one: "
            f"{file.name}:NAME"
        )
    listed = "\n".join(f"  {file.name}:{name}  ({_kind(value)})" for name, value in found.items())
    raise ConfigError(f"{file.name} has several things to run; name one:\n{listed}")


def _kind(value: object) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _named(module: ModuleType, file: Path, name: str) -> object:
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            runnable = find_targets(module)
            near = did_you_mean(name, [*runnable, *(one for one in vars(module) if not one.startswith("_"))])
            there = near or (f"; to run there are: {', '.join(runnable)}" if runnable else "")
            raise NotThere(f"{file.name} has no {name!r}{there}")
        value = getattr(value, part)
    return value


def check_given(target: Target) -> None:
    """Say in words of the command line what has to be given, before it runs.

    Raises:
        ConfigError: A field or an input has no value.
        ContractError: It does not fit together.
    """
    if target.kind == "pipeline":
        missing = [name for name in target.what.inputs if name not in target.inputs]
    else:
        held = target.what._with_config()
        missing = [name for name in held._field_types() if name not in held.fields]
        if target.kind != "sweep" and not missing:
            missing = [name for name in held._compiled().inputs if name not in target.inputs]
    if missing:
        raise ConfigError(f"{target.name} needs {', '.join(missing)}: give {missing[0]}=VALUE")


# ---------------------------------------------------------------- values


def _built(what: object, name: str, file: Path, words: Sequence[str], prefix: str | None) -> Target:
    """Make a runnable of a name's value, with the values given."""
    from sweep.experiments.base import Experiment, argument_types
    from sweep.pipeline.builder import Pipeline
    from sweep.pipeline.units import Configuration

    words = joined(words)
    places: Places = {}
    if isinstance(what, Configuration) and not isinstance(what, type):
        raise ConfigError(f"{file.name}:{name} is a scope, nothing to run; ask it: sweep config why KEY {file.name}:{name}")
    if isinstance(what, type) and issubclass(what, Experiment):
        ours = what.__init__.__module__.partition(".")[0] == "sweep"  # fields and settings: given with their provenance
        own = {} if ours else argument_types(what)
        what, words, places = _called(what, name, own, words)
    elif not isinstance(what, Pipeline | Experiment) and callable(what):
        what, words, places = _called(what, name, _parameter_types(what), words)
    if isinstance(what, Pipeline):
        inputs, more = _inputs(what, name, words, prefix)
    elif isinstance(what, Experiment):
        what = copy.copy(what)  # the module's own stays as it is
        inputs, more = _configure(what, words, prefix)
    else:
        raise ConfigError(
            f"{file.name}:{name} is {what!r}; a Pipeline, an Experiment, or a function that returns one can be run"
        )
    return Target(what, name, str(file), inputs, {**places, **more})


def _called(
    function: Any, name: str, types: Mapping[str, object], words: Sequence[str]
) -> tuple[object, list[str], Places]:
    """Call a class, or a function that returns something to run, with its own words; return also the others."""
    from sweep.experiments.given import Given, typed

    own, rest = _apart(words, types)
    given = Given.by(sources(_values(own)))
    values = {key: typed(key, items, types[key]) for key, items in given.heads().items()}
    needed = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in values
    ]
    if needed:
        near = did_you_mean(needed[0], [word.partition("=")[0] for word in rest])
        raise ConfigError(f"{name}(…) needs {', '.join(needed)}: give {needed[0]}=VALUE{near}")
    return function(**values), rest, given.places()


def _configure(what: Any, words: Sequence[str], prefix: str | None) -> tuple[dict[str, object], Places]:
    """Give an experiment its values, and those of the runs inside it; return what is left: values of its inputs."""
    from sweep.experiments.given import Given, typed
    from sweep.pipeline.units import Configuration

    types, config = what._field_types(), what._given_config
    named, words = ([], list(words)) if "name" in types else _apart(words, ["name"])
    for item in _values(named).assignments:
        what.name = typed("name", [item], str)
    if isinstance(config, Configuration):
        ranges, words = _ranges(what, words)
        with warnings.catch_warnings():  # what no view knows, a run inside may: the experiment refuses what nobody takes
            warnings.filterwarnings("ignore", "(?s).*: no view of .* knows", UserWarning)
            parse_scope(config, words, prefix)
        given = Given.of(config) + Given.by(sources(_values(ranges)))
    else:
        if what.level != "sweep" and config is None and set(what.fields) >= set(types):
            words, prefix = _for_scope(what.pipeline(), types, words, prefix)
        given = Given.of(config) + Given.by(sources(_values(words), prefix))
    inputs: dict[str, object] = {}
    strangers = [key for key in given.heads() if key not in types]
    if strangers and what.level != "sweep":
        what._given_config = given.only([key for key in given.heads() if key in types])
        known = _open_inputs(what, given, strangers)
        inputs = {key: typed(key, given.heads()[key], known[key]) for key in strangers if key in known}
    what._given_config = given.only([key for key in given.heads() if key not in inputs])
    what._with_config()
    return inputs, given.only(list(inputs)).places()


def _open_inputs(what: Any, given: Given, strangers: Sequence[object]) -> Mapping[str, object]:
    """Return the open inputs of an experiment; refuse a plain value that is neither for one nor for a field."""
    from sweep.experiments.base import runs_in

    types, held = what._field_types(), what._with_config()
    known: Mapping[str, object] = {}
    runs: Sequence[str] = ()
    try:
        known, runs = held._compiled().inputs, runs_in(held.pipeline())[0]
    except ContractError:
        if not any(near_miss(str(key), types) for key in strangers):
            raise  # else what is missing has been given under a wrong name
    for key in strangers:
        items = given.heads()[key]
        plain = any(len(item.path) == 1 and not isinstance(item.value, Mapping) for item in items)
        if plain and key not in known and key not in runs:
            raise UnknownName("key", str(key), [*types, *known, *runs], f"{items[0].source!r} for {what.name}")
    return known


def _inputs(
    pipeline: Any, name: str, words: Sequence[str], prefix: str | None
) -> tuple[dict[str, object], Places]:
    """Return the inputs of a pipeline; the other words are for the scope of configuration in it, if there is one."""
    from sweep.experiments.given import Given, typed

    types = pipeline.inputs
    words, prefix = _for_scope(pipeline, types, words, prefix)
    given = Given.by(sources(_values(words), prefix))
    for key, items in given.heads().items():
        if key not in types:
            raise UnknownName("key", key, types, f"{items[0].source!r} for {name}")
    return {key: typed(key, items, types[key]) for key, items in given.heads().items()}, given.places()


def _for_scope(
    pipeline: Any, types: Mapping[str, object], words: Sequence[str], prefix: str | None
) -> tuple[Sequence[str], str | None]:
    """Hand words to the one scope that is a stage, if there is one; return what is left for the others."""
    from sweep.experiments.base import runs_in
    from sweep.pipeline.nodes import contents_of
    from sweep.pipeline.units import Configuration

    scopes = [what for what in contents_of(pipeline._done) if isinstance(what, Configuration)]
    if len(scopes) != 1:
        return words, prefix
    own, rest = _apart(words, {*types, *pipeline.inputs, *runs_in(pipeline)[0]})
    parse_scope(scopes[0], rest, prefix)
    return own, None


def parse_scope(scope: Any, words: Sequence[str], prefix: str | None) -> None:
    """Give a scope its words.

    Raises:
        ConfigError: A wrong word; or a prefix, which a scope has of its own.
    """
    if prefix is not None:
        raise ConfigError(f"--env {prefix}: a scope names its own variables: Scope(env_prefix={prefix!r})")
    scope.parse(list(words))


def _ranges(what: Any, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell search ranges, of a sweep or of one inside, from words for a scope."""
    from sweep.config.commandline import split_search
    from sweep.experiments.overrides import SETTINGS

    _, found = split_search(words)
    own = [*what._field_types(), *SETTINGS]
    names = [key for key in found if key.partition(".")[0] not in own and (what.level == "sweep" or "." in key)]
    return [word for word in words if word.partition("=")[0] in names], [
        word for word in words if word.partition("=")[0] not in names
    ]


def _apart(words: Sequence[str], heads: Container[str]) -> tuple[list[str], list[str]]:
    """Return the ``key=value`` words whose keys begin with one of ``heads``, and the others."""
    own = [word for word in words if "=" in word and word.partition("=")[0].partition(".")[0] in heads]
    return own, [word for word in words if word not in own]


def _values(words: Sequence[str]) -> Arguments:
    """Read ``key=value`` words and ``--config FILE``; nothing is evaluated."""
    parsed = parse_arguments(words)
    stray = [*parsed.views, *(["manual"] if parsed.manual else [])]
    if stray:
        raise ConfigError(f"{stray[0]!r} is no key=value; after FILE[:NAME] come values only, such as lr=0.1")
    return parsed


def _parameter_types(function: Any) -> dict[str, object]:
    """Return the annotation of each parameter that can be given by name."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # an annotation that is only there for the type checker
        hints = {}
    found = inspect.signature(function).parameters.values()
    return {one.name: hints.get(one.name, Any) for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
