"""Something that a thread writes while the stage that asked for it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import final

__all__ = ["Saving"]


@final
class Saving:
    """One piece of work in a daemon thread, and what is to follow it.

    Args:
        work: Called in the thread at once.

    Example:
        >>> done = []
        >>> saving = Saving(lambda: done.append("saved"))
        >>> saving.then(lambda: done.append("reported"))
        >>> saving.wait()
        >>> done
        ['saved', 'reported']
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._mutex = threading.Lock()
        self._error: BaseException | None = None
        self._after: list[Callable[[], None]] | None = []
        self._thread = threading.Thread(target=copy_context().run, args=(self._run, work), name="sweep-save", daemon=True)
        self._thread.start()

    def then(self, action: Callable[[], None]) -> None:
        """Call ``action`` once the work is done, in order; after work that has failed nothing follows."""
        with self._mutex:
            if self._after is not None:
                self._after.append(action)
            elif self._error is None:
                action()

    def wait(self) -> None:
        """Return when everything is done.

        Raises:
            BaseException: What the work raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            self._error = error
        with self._mutex:
            actions, self._after = self._after, None
            for action in actions if actions is not None and self._error is None else ():
                action()
