"""OpenMMLab configs: Python files of assignments with a ``_base_`` chain and ``_delete_`` keys.

A file that is only assignments of plain data is *parsed*: nothing in it runs. A file that needs
running (imports, functions, loops) is refused unless the caller consents.
"""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from os import PathLike
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from sweep.config import files
from sweep.errors import ConfigError

__all__ = ["read_mm_config"]

_NUMBERS = (int, float)
_OPERATORS: dict[type[ast.operator], Callable[[object, object], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LARGEST = 1e12  # of a whole operand, and 64 of an exponent: keeps arithmetic in a file cheap
_CALLS: dict[str, Callable[..., object]] = {"dict": dict, "list": list, "tuple": tuple}


def read_mm_config(path: str | PathLike[str], *, execute: bool = False) -> dict[str, Any]:
    """Read a config with everything its ``_base_`` chain gives.

    Bases are merged in their order, then the file itself: mappings are joined at any depth, a mapping
    with ``_delete_=True`` replaces the base's.

    Args:
        path: A ``.py`` file, or JSON, YAML, TOML, XYZ with the same keys.
        execute: Consent to run Python files that are more than assignments.

    Raises:
        ConfigFileMissing: The file or a base does not exist.
        ConfigError: A cycle of bases, code that would have to run, malformed content (file and line).
    """
    merged = _chain(Path(path), execute, ())
    return {key: _without_delete(value) for key, value in merged.items()}


def _chain(path: Path, execute: bool, above: tuple[Path, ...]) -> dict[str, object]:
    real = Path(os.path.realpath(path))
    if real in above:
        circle = " → ".join(step.name for step in [*above[above.index(real) :], real])
        raise ConfigError(f"{path}: the _base_ chain is a circle: {circle}")
    values = _python(path, execute) if path.suffix == ".py" else dict(files.read(path))
    bases = values.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list | tuple) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: _base_ is to be a file name or a list of them, not {bases!r}")
    merged: dict[str, object] = {}
    for base in bases:
        _merge(merged, _chain(path.parent / base, execute, (*above, real)))
    _merge(merged, values)
    return merged


def _merge(into: dict[str, object], values: Mapping[str, object]) -> None:
    for key, value in values.items():
        old = into.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not value.get("_delete_", False):
            _merge(old, {name: item for name, item in value.items() if name != "_delete_"})
        else:
            into[key] = _without_delete(value)


def _without_delete(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_delete(item) for key, item in value.items() if key != "_delete_"}
    if isinstance(value, list | tuple):
        return type(value)(_without_delete(item) for item in value)
    return value


def _python(path: Path, execute: bool) -> dict[str, object]:
    text = files.read_text(path)
    try:
        tree = ast.parse(text, filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path}:{getattr(error, 'lineno', None) or 1}: no Python: {error}") from error
    try:
        return _Assignments(path).read(tree)
    except _NeedsRunningError as needs:
        if not execute:
            raise ConfigError(
                f"{path}:{needs.line}: {needs.what} would have to be run; "
                "nothing was. If you trust the file: load_mm_config(path, execute=True)"
            ) from None
    return _run(path)


def _run(path: Path) -> dict[str, object]:
    import runpy

    values = runpy.run_path(str(path))
    hidden = (ModuleType, FunctionType, BuiltinFunctionType, type)
    return {
        name: value for name, value in values.items() if not name.startswith("__") and not isinstance(value, hidden)
    }


class _NeedsRunningError(Exception):
    """Something in the file is more than an assignment of plain data."""

    def __init__(self, node: ast.AST, what: str) -> None:
        self.line, self.what = getattr(node, "lineno", 1), what


class _Assignments:
    """Works out assignments of literals, ``dict()`` calls, earlier names and small arithmetic."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, object] = {}

    def read(self, tree: ast.Module) -> dict[str, object]:
        for statement in tree.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a docstring
            if isinstance(statement, ast.Assign):
                targets, value = statement.targets, statement.value
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                targets, value = [statement.target], statement.value
            else:
                raise _NeedsRunningError(statement, f"{type(statement).__name__} statement")
            for target in targets:
                if not isinstance(target, ast.Name):
                    raise _NeedsRunningError(statement, f"the assignment to {ast.unparse(target)}")
                self.names[target.id] = self.value(value)
        return {name: value for name, value in self.names.items() if not name.startswith("__")}

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name() if node.id in self.names:
                return deepcopy(self.names[node.id])  # one name used twice gives two values
            case ast.List():
                return [self.value(item) for item in node.elts]
            case ast.Tuple():
                return tuple(self.value(item) for item in node.elts)
            case ast.Dict():
                return self.mapping(node)
            case ast.Call():
                return self.call(node)
            case ast.Subscript():
                return self.item(node)
            case ast.UnaryOp(op=ast.Not()):
                return not self.value(node.operand)
            case ast.UnaryOp(op=ast.UAdd()):
                return self.value(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return self.arithmetic(node, operator.sub, 0, self.value(node.operand))
            case ast.BinOp() if type(node.op) in _OPERATORS:
                return self.arithmetic(node, _OPERATORS[type(node.op)], self.value(node.left), self.value(node.right))
        raise _NeedsRunningError(node, repr(ast.unparse(node)))

    def mapping(self, node: ast.Dict) -> dict[object, object]:
        found: dict[object, object] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            value = self.value(item)
            if key is None and isinstance(value, dict):
                found.update(value)
            elif isinstance(key, ast.Constant):
                found[key.value] = value
            else:
                raise _NeedsRunningError(node, repr(ast.unparse(node)))
        return found

    def call(self, node: ast.Call) -> object:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        values = [self.value(item) for item in node.args]
        named = [(word.arg, self.value(word.value)) for word in node.keywords]
        if name not in _CALLS or name in self.names or (name != "dict" and named):
            raise _NeedsRunningError(node, repr(ast.unparse(node)))
        spread = {key: item for arg, value in named if arg is None for key, item in dict(value).items()}
        try:
            return _CALLS[name](*values, **spread, **{arg: value for arg, value in named if arg is not None})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.path}:{node.lineno}: {ast.unparse(node)}: {error}") from error

    def arithmetic(self, node: ast.expr, how: Callable[[object, object], object], left: Any, right: Any) -> object:
        numbers = isinstance(left, _NUMBERS) and isinstance(right, _NUMBERS)
        joined = how is operator.add and type(left) is type(right) and isinstance(left, str | list | tuple)
        small = numbers and abs(left) <= _LARGEST and abs(right) <= (64 if how is operator.pow else _LARGEST)
        if not (joined or small):
            raise _NeedsRunningError(node, repr(ast.unparse(node)))
        try:
            return how(left, right)
        except ArithmeticError as error:
            raise ConfigError(f"{self.path}:{node.lineno}: {ast.unparse(node)}: {error}") from error

    def item(self, node: ast.Subscript) -> object:
        holder, index = self.value(node.value), self.value(node.slice)
        try:
            return holder[index]
        except (KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"{self.path}:{node.lineno}: {ast.unparse(node)}: {error!r}") from error
