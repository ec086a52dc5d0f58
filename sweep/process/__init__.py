"""The one child runner: a fork server, the children it forks, and the owner's hold on both.

::

    owner ──control──> fork server           one server for an executor, objectives preloaded
      │ ├──handle────────┘ │ fork            one for each child: end it; its pid and exit status
      │ └──wire────────> child               one for each child: task, reports, checkpoints, value

Every arrow is a Unix socket. Closing any of them ends what hangs on it: nothing here outlives
the process that asked for it. Cluster engines only place this runner on other machines.
"""

from __future__ import annotations

import os

from sweep.process.owner import ForkServer
from sweep.process.wire import CHILD_VARIABLE

__all__ = ["ForkServer", "inside_child"]


def inside_child() -> bool:
    """Return whether this code runs inside a child process of a sweep (not in a process started by one).

    Example:
        >>> inside_child()
        False
    """
    return os.environ.get(CHILD_VARIABLE) == str(os.getpid())
