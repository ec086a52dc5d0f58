"""Who owns a run: one byte lock per root run, held by the owning process alone.

POSIX record locks die with the process, are not inherited by a fork, and are all dropped as
soon as *any* descriptor of the file is closed: hence one descriptor per file and process,
kept until the last store that uses it is closed (``_FILES``; the operating system's state is
per process, so ours has to be). ``flock`` is not used: grandchildren would keep it alive.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import final

from sweep.errors import StoreError, StoreUnwritable

__all__ = ["LockFile"]

_NETWORK = ("nfs", "cifs", "smb", "sshfs", "lustre", "gpfs", "beegfs", "glusterfs", "ceph", "afs", "9p")


@final
class LockFile:
    """The side file of a store with one lockable byte per root run."""

    def __init__(self, path: Path) -> None:
        self._pid, self._path, self._users = os.getpid(), str(path.resolve()), 0
        self._held: set[int] = set()
        self._mutex = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreUnwritable(f"cannot open the lock file {path}: {error.strerror}") from error

    @classmethod
    def of(cls, path: Path) -> LockFile:
        """Return this process's lock file for a path, opened at most once; `leave` it when done."""
        where = str(path.resolve())
        with _FILES_MUTEX:
            known = _FILES.get(where)
            if known is None or known._pid != os.getpid() or not path.exists():
                known = _FILES[where] = cls(path)
            known._users += 1
            return known

    def leave(self) -> None:
        """Use it no more; the last who does closes it (of a parent before a fork: nothing happens)."""
        with _FILES_MUTEX:
            self._users -= 1
            if self._users == 0 and self._pid == os.getpid():
                if _FILES.get(self._path) is self:
                    del _FILES[self._path]
                os.close(self._descriptor)

    def acquire(self, run_id: int) -> bool:
        """Take a run's byte; False if another process, or this one, holds it already."""
        with self._mutex:
            if run_id in self._held or not self._try(run_id, fcntl.LOCK_EX):
                return False
            self._held.add(run_id)
            return True

    def release(self, run_id: int) -> None:
        """Give a run's byte back."""
        with self._mutex:
            if run_id in self._held:
                self._held.discard(run_id)
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, run_id)

    def is_held(self, run_id: int) -> bool:
        """Whether some live process owns the run."""
        with self._mutex:
            if run_id in self._held:
                return True
            if not self._try(run_id, fcntl.LOCK_EX):
                return True
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, run_id)
            return False

    def _try(self, run_id: int, kind: int) -> bool:
        if os.getpid() != self._pid:
            raise StoreError("this store was opened before a fork; open it again in the child process")
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, 1, run_id)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise StoreError(f"cannot lock run {run_id}: {error.strerror}; is this a network file system?") from error
        return True


_FILES: dict[str, LockFile] = {}
_FILES_MUTEX = threading.Lock()


def network_file_system(path: Path) -> str | None:
    """Return the kind of network file system a path lies on, or None (Linux; elsewhere None)."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    target, best, kind = str(path.resolve()), "", ""
    for line in mounts:
        _, point, system, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, system
    return kind if any(kind.startswith(name) or kind == f"fuse.{name}" for name in _NETWORK) else None
