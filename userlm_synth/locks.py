"""One process at a time: a lock on a folder or file; the system lifts it when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from userlm_synth.errors import UserError


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold `path`, which exists, for this process alone; raises `UserError(message)` if it is held.

    Nothing is written: the lock (flock) is on the folder or file itself.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(message) from None
        yield
    finally:
        os.close(handle)
