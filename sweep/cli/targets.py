"""``FILE[:NAME] key=value …``: a user's file imported, and what is to be run in it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, final

from sweep.cli.faults import LoadError, NotThere
from sweep.config.commandline import Assignment, parse_arguments
from sweep.errors import ConfigError, ContractViolation, UnknownName, did_you_mean

__all__ = ["Target", "find_targets", "load_target", "module_of", "split"]

_SETTINGS = ("name", "metric", "mode", "workers", "seed", "repeats", "retries", "max_failures", "init_from")


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Something that can be run.

    Attributes:
        what: A Pipeline, or an Experiment.
        name: Its name in the file.
        file: Absolute path of the file.
        inputs: Values for its inputs.
    """

    what: Any
    name: str
    file: str
    inputs: Mapping[str, Any] = field(default_factory=dict)

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


def load_target(reference: str, words: Sequence[str] = ()) -> Target:
    """Import ``FILE[:NAME]`` and give it the values of ``key=value`` words.

    Raises:
        NotThere: No such file, or no such name in it.
        ConfigError: Several could be meant; a value does not fit; an unknown key.
        LoadError: The file raised when it was imported.
    """
    file, name = split(reference)
    module = module_of(file)
    given = _assignments(words)
    name = name or _only(file, find_targets(module))
    what = _named(module, file, name)
    return _built(what, name, file, given)


def _only(file: Path, found: Mapping[str, Any]) -> str:
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise NotThere(
            f"{file.name} has no Pipeline or Experiment at its top level; define one, or name a function that returns one: "
            f"{file.name}:NAME"
        )
    listed = "\n".join(f"  {file.name}:{name}  ({_kind(value)})" for name, value in found.items())
    raise ConfigError(f"{file.name} has several things to run; name one:\n{listed}")


def _kind(value: Any) -> str:
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _named(module: ModuleType, file: Path, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            runnable = find_targets(module)
            near = did_you_mean(name, [*runnable, *(one for one in vars(module) if not one.startswith("_"))])
            there = near or (f"; to run there are: {', '.join(runnable)}" if runnable else "")
            raise NotThere(f"{file.name} has no {name!r}{there}")
        value = getattr(value, part)
    return value


# ---------------------------------------------------------------- values


def _assignments(words: Sequence[str]) -> dict[str, Assignment]:
    """Read ``key=value`` words; nothing is evaluated."""
    parsed = parse_arguments(words)
    stray = [*parsed.views, *parsed.files, *(["manual"] if parsed.manual else [])]
    if stray:
        raise ConfigError(f"{stray[0]!r} is no key=value; after FILE[:NAME] come values only, such as lr=0.1")
    found: dict[str, Assignment] = {}
    for one in parsed.assignments:
        if len(one.path) > 1:
            raise ConfigError(f"{one.source!r}: give {one.path[0]!r} as a whole, for example {one.path[0]}={{…}}")
        found[str(one.path[0])] = one
    return found


def _built(what: Any, name: str, file: Path, given: dict[str, Assignment]) -> Target:
    """Make a runnable of a name's value, with the values given."""
    from sweep.experiments.base import Experiment
    from sweep.pipeline.builder import Pipeline

    if isinstance(what, type) and issubclass(what, Experiment):
        types = _constructor_types(what)
        values = {key: _typed(one, types.get(key, Any)) for key, one in given.items() if key in types}
        _refuse_unknown(given, types, f"{name}(…)")
        return Target(what(**values), name, str(file))
    if not isinstance(what, Pipeline | Experiment) and callable(what):
        types = _parameter_types(what)
        values = {key: _typed(given.pop(key), types[key]) for key in list(given) if key in types}
        what = _called(what, name, values, given, types)
    if isinstance(what, Pipeline):
        inputs = what.inputs
        _refuse_unknown(given, inputs, name)
        return Target(what, name, str(file), {key: _typed(one, inputs[key]) for key, one in given.items()})
    if isinstance(what, Experiment):
        return Target(what, name, str(file), _set_fields(what, given, name))
    raise ConfigError(
        f"{file.name}:{name} is {what!r}; a Pipeline, an Experiment, or a function that returns one can be run"
    )


def _called(
    function: Any, name: str, values: Mapping[str, Any], rest: Mapping[str, Any], types: Mapping[str, Any]
) -> Any:
    """Call a function that returns something to run."""
    required = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) and one.name not in values
    ]
    if required:
        near = did_you_mean(required[0], rest)
        raise ConfigError(f"{name}(…) needs {', '.join(required)}: give {required[0]}=VALUE{near}")
    return function(**values)


def _set_fields(what: Any, given: Mapping[str, Assignment], name: str) -> dict[str, Any]:
    """Set the fields and settings of an experiment; return what is left: values of its inputs."""
    own: dict[str, Any] = dict(what._field_types())
    if what.level == "sweep":
        types = _constructor_types(type(what))
        own |= {key: types.get(key, Any) for key in _SETTINGS}
    for key, one in given.items():
        if key in own:
            setattr(what, key, _typed(one, own[key]))
    rest = {key: one for key, one in given.items() if key not in own}
    if not rest:
        return {}
    inputs = {} if what.level == "sweep" else what._compiled().inputs
    _refuse_unknown(rest, {**own, **inputs}, name)
    return {key: _typed(one, inputs[key]) for key, one in rest.items()}


def _refuse_unknown(given: Mapping[str, Assignment], known: Mapping[str, Any], name: str) -> None:
    for key, one in given.items():
        if key not in known:
            raise UnknownName("key", key, known, f"{one.source!r} for {name}")


def _typed(given: Assignment, annotation: Any) -> Any:
    """Return a value as its annotation wants it: the literal, else the text as written."""
    from sweep.pipeline.contracts import FieldContract

    key = str(given.path[0])
    contract = FieldContract(key, annotation)
    candidates = [given.text] if given.problem else [given.value, given.text]
    first: ContractViolation | None = None
    for candidate in candidates:
        try:
            return contract.validate(candidate, "command line")
        except ContractViolation as error:
            first = first or error
    reason = given.problem or f"expected {first.expected.partition(' (text is')[0] if first is not None else ''}"
    raise ConfigError(f"{given.source!r}: {reason}") from first


def _parameter_types(function: Any) -> dict[str, Any]:
    """Return the annotation of each parameter that can be given by name."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # an annotation that is only there for the type checker
        hints = {}
    found = inspect.signature(function).parameters.values()
    return {one.name: hints.get(one.name, Any) for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}


def _constructor_types(kind: type) -> dict[str, Any]:
    """Return what an experiment class can be given: its constructor's parameters and its fields."""
    from sweep.experiments.base import field_annotations

    types = _parameter_types(inspect.getattr_static(kind, "__init__"))
    types.pop("self", None)
    return {**types, **field_annotations(kind)}
