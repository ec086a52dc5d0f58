"""The command line: ``sweep …``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with the exit code.

    Args:
        arguments: The words after the program's name; None = ``sys.argv``.

    Raises:
        SystemExit: Always: 0 ok, 1 the run failed, 2 usage, config or contract, 3 not found, 4 store,
            130 Ctrl-C, 143 SIGTERM.
    """
    from sweep.cli.app import app
    from sweep.cli.faults import plain_warnings

    plain_warnings()
    app.main(args=None if arguments is None else list(arguments), prog_name="sweep")
    sys.exit(0)
