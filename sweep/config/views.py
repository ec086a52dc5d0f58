"""Views: the named functions that set values, their order and manual, and blocks that wait for the command line."""

from __future__ import annotations

import ast
import inspect
import textwrap
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from types import TracebackType
from typing import final

from sweep.config.adict import dotted, leaves
from sweep.config.layers import short_path
from sweep.errors import ConfigError, UnknownName

__all__ = ["RULE", "LazyBlock", "Plan", "SuspendedView", "View", "manual_text", "plan_views"]

RULE = "-" * 50


@final
@dataclass(frozen=True, slots=True)
class View:
    """One view of a scope.

    Attributes:
        name: What the command line calls it.
        call: The function; takes the config.
        default: Whether it applies without being named.
        priority: Higher applies later, within its kind.
        lazy: Whether it runs after the command line.
        needs: Views that apply with it, before it.
    """

    name: str
    call: Callable[[object], object]
    default: bool
    priority: int
    lazy: bool
    needs: tuple[str, ...]

    @property
    def where(self) -> str:
        """``file:line`` of the function."""
        code = getattr(inspect.unwrap(self.call), "__code__", None)
        return f"{short_path(code.co_filename)}:{code.co_firstlineno}" if code is not None else ""

    @property
    def has_lazy_block(self) -> bool:
        """Whether the function mentions ``Scope.lazy()``."""
        code = getattr(inspect.unwrap(self.call), "__code__", None)
        return not self.lazy and code is not None and "lazy" in code.co_names

    def sets(self) -> dict[str, int]:
        """Return the dotted keys that the function's text sets, with their lines; it is not run."""
        function = inspect.unwrap(self.call)
        try:
            lines, first = inspect.getsourcelines(function)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            return {}
        head = tree.body[0]
        if not isinstance(head, ast.FunctionDef) or not head.args.args:
            return {}
        config, found = head.args.args[0].arg, {}
        for node in ast.walk(head):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                base, _, key = ast.unparse(node).partition(".")
                if base == config:
                    found[key] = first + node.lineno - 1
        return found


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What one invocation applies, in order."""

    defaults: list[View] = field(default_factory=list)
    selected: list[View] = field(default_factory=list)
    lazy: list[View] = field(default_factory=list)


def plan_views(views: Mapping[str, View], selected: Sequence[str], where: str = "", keys: Iterable[str] = ()) -> Plan:
    """Choose and order the views: needs first, then priority, then order.

    Args:
        views: All views of the scope.
        selected: The names on the command line, in order.
        where: What to say of the place of a wrong name.
        keys: Known keys, for the hint that one of them was meant.

    Raises:
        UnknownName: A view, selected or needed, that does not exist.
        ConfigError: Needs that go round in a circle; a view that needs a lazier one.
    """
    wanted: dict[str, View] = {}
    for view in views.values():
        if view.default:
            _add(view.name, views, wanted, (), where)
    by_default = set(wanted)
    for name in selected:
        if name not in views and name in {*keys, *(key for view in views.values() for key in view.sets())}:
            raise UnknownName("view", name, views, f"{where}; it is a key: {name}=VALUE")
        _add(name, views, wanted, (), where)
    eager = [view for view in wanted.values() if not view.lazy]
    return Plan(
        _ordered([view for view in eager if view.name in by_default]),
        _ordered([view for view in eager if view.name not in by_default]),
        _ordered([view for view in wanted.values() if view.lazy]),
    )


def _add(name: str, views: Mapping[str, View], wanted: dict[str, View], above: tuple[str, ...], where: str) -> None:
    if name in above:
        raise ConfigError(f"needs of views go round in a circle: {' → '.join([*above[above.index(name) :], name])}")
    if name not in views:
        raise UnknownName("view", name, views, f"needed by view {above[-1]!r}" if above else where)
    if name in wanted:
        return
    for need in views[name].needs:
        _add(need, views, wanted, (*above, name), where)
        if views[need].lazy and not views[name].lazy:
            raise ConfigError(
                f"view {name!r} ({views[name].where}) needs {need!r}, which is lazy and applies after it; "
                f"make {name!r} lazy too"
            )
    wanted[name] = views[name]


def _ordered(views: list[View]) -> list[View]:
    """Return needs first; of those that are ready, the lowest priority, then the first named."""
    left = {view.name: index for index, view in enumerate(views)}
    ordered: list[View] = []
    while left:
        ready = [views[index] for index in left.values() if not any(need in left for need in views[index].needs)]
        best = min(ready, key=lambda view: (view.priority, left[view.name]))
        ordered.append(best)
        del left[best.name]
    return ordered


def _by_priority(views: Iterable[View]) -> list[View]:
    """Return the views as the manual lists them: defaults, then the others, each by priority."""
    return sorted(views, key=lambda view: (not view.default, view.priority))


def manual_text(
    name: str, views: Mapping[str, View], plan: Plan, inputs: Sequence[str], main: str, manuals: Mapping[object, object]
) -> str:
    """Return a scope's part of the manual, without the closing rule. No view is run for it.

    Args:
        name: Name of the scope.
        views: All its views.
        plan: What this invocation applies.
        inputs: The explicit inputs of this invocation, as written.
        main: Name of the function that uses the config.
        manuals: Nested texts by key.
    """
    eager = _by_priority(view for view in views.values() if not view.lazy)
    lazy = _by_priority(view for view in views.values() if view.lazy)
    shown = f"(CLI Inputs: {' '.join(inputs)})" if inputs else "(CLI Inputs)"
    return "\n".join(
        [
            RULE,
            f'[Scope "{name}"]',
            "(The Applying Order of Views)",
            _line(eager, "(CLI Inputs)", lazy, main),
            "(Applied Here)",
            _line([*plan.defaults, *plan.selected], shown, plan.lazy, main),
            "",
            "(User Manuals)",
            *(f"{name}.{dotted(path)}: {text}" for path, text in leaves(manuals)),
        ]
    )


def _line(eager: Sequence[View], inputs: str, lazy: Sequence[View], main: str) -> str:
    blocks = [f"{view.name} (lazy block)" for view in eager if view.has_lazy_block]
    return " → ".join([*(view.name for view in eager), inputs, *blocks, *(view.name for view in lazy), main])


class _Abandoned(BaseException):
    """Ends a suspended view whose resolution has failed."""


_suspended: ContextVar[SuspendedView | None] = ContextVar("sweep_suspended_view", default=None)


@final
class SuspendedView:
    """A view that runs in a thread of its own, so that it can wait inside ``with Scope.lazy():``.

    Only one of the two threads runs at any moment; the view is run once.

    Args:
        call: Runs the view.
        leave: Called in the view's thread when a lazy block ends; nothing may be set after it.
        enter: Called there when a block begins.
    """

    def __init__(self, call: Callable[[], object], enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._call, self._enter, self._leave = call, enter, leave
        self._view_may_run, self._caller_may_run = threading.Semaphore(0), threading.Semaphore(0)
        self._resumed = self._abandoned = False
        self._error: BaseException | None = None
        self.done = False

    def start(self) -> None:
        """Run the view to its end or to its first lazy block."""
        context = copy_context()
        context.run(_suspended.set, self)
        self._thread = threading.Thread(target=context.run, args=(self._body,), daemon=True, name="sweep-view")
        self._thread.start()
        self._wait()

    def resume(self) -> None:
        """Run the rest of the view."""
        self._resumed = True
        self._view_may_run.release()
        self._wait()

    def abandon(self) -> None:
        """End a view that still waits."""
        if not self.done:
            self._abandoned = True
            self._view_may_run.release()
            self._thread.join()

    def _body(self) -> None:
        try:
            self._call()
        except _Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  # carried over to the thread that asked
            self._error = error
        finally:
            self.done = True
            self._caller_may_run.release()

    def _wait(self) -> None:
        self._caller_may_run.acquire()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Called in the view: wait for the command line (the first time), then go on."""
        if not self._resumed:
            self._caller_may_run.release()
            self._view_may_run.acquire()
            if self._abandoned:
                raise _Abandoned
        self._enter()

    def leave(self) -> None:
        """Called in the view: a lazy block has ended."""
        self._leave()


@final
class LazyBlock:
    """``with Scope.lazy():`` the block runs after the command line has been read."""

    def __enter__(self) -> None:
        view = _suspended.get()
        if view is None:
            raise ConfigError("Scope.lazy() belongs directly into a view that is not lazy itself: with Scope.lazy(): …")
        self._view = view
        view.pause()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.leave()
