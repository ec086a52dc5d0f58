"""What a stage may be made from: a function, a pipeline, an experiment, a scope of configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from sweep.errors import ConfigError
from sweep.pipeline.annotations import Annotation
from sweep.pipeline.contracts import Signature, read_signature
from sweep.pipeline.nodes import Node, contents_of
from sweep.pipeline.runtime import current_activation
from sweep.pipeline.steps import Unit

__all__ = ["StageLike", "Unit", "has_config", "make_unit"]


@runtime_checkable
class StageLike(Protocol):
    """An object that is no function and can stand as a stage: a pipeline, an experiment, a scope."""

    def __sweep_stage__(self, known: Mapping[str, Annotation]) -> Unit:
        """Return what to run; ``known`` are the fields and their annotations at this point."""


@runtime_checkable
class Configuration(Protocol):
    """A scope of configuration (``sweep.config``): resolves itself, and can say where each value is from."""

    result_type: type

    def resolve(self, argv: object = None) -> object:
        """Return the frozen config."""

    def layers_as_data(self, argv: object = None) -> list[dict[str, object]]:
        """Return the layers it was made from."""


def make_unit(what: Any, known: Mapping[str, Annotation]) -> Unit:
    """Return what a stage runs: a function, a config, or what ``__sweep_stage__`` gives."""
    if not isinstance(what, type) and isinstance(what, StageLike):
        return what.__sweep_stage__(known)
    if not isinstance(what, type) and isinstance(what, Configuration):
        return _configuration(what)
    return Unit("function", what, read_signature(what), code=(what,))


def _configuration(scope: Configuration) -> Unit:
    """Return a scope as a stage: its values are identity, its layers are kept with the run for ``config why``."""

    def resolve() -> object:
        act = current_activation()
        handle = None if act is None else act.frame.handle
        if act is not None and handle is not None:
            layers = json.dumps(scope.layers_as_data(), default=repr)
            handle.journal.put(f"{act.key}!config", "config", layers)
        value = scope.resolve()  # of a schema, an instance of a frozen subclass, which no store can name
        return value if not hasattr(value, "model_dump") else scope.result_type(**value.model_dump())

    signature = Signature("config", (), scope.result_type, "", False, False, True, ())
    try:
        values = json.loads(json.dumps(_as_data(scope.resolve()), default=repr))
    except ConfigError as error:
        return Unit("config", resolve, Signature("config", (), scope.result_type, "", False, False, True, (str(error),)))
    return Unit("config", resolve, signature, structure=values)


def has_config(nodes: Sequence[Node]) -> bool:
    """Whether a scope of configuration is among the nodes, at any depth."""
    return any(isinstance(what, Configuration) for what in contents_of(nodes))


def _as_data(config: object) -> object:
    """Return a resolved config as plain data."""
    if hasattr(config, "model_dump"):
        return config.model_dump(mode="json")
    return config.to_dict() if hasattr(config, "to_dict") else config
