"""Errors that a person can mend; everything else is a bug.

Stages raise `UserError` (or `Problems`, several at once). The command line turns it into plain
lines on standard error and exit status 1, in one place.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and what to do, in one line."""


class Problems(UserError):
    """Several mendable errors found in one go, one line each."""

    def __init__(self, lines: Iterable[str], limit: int = 20) -> None:
        self.lines = list(lines)
        shown = self.lines[:limit]
        if len(self.lines) > limit:
            shown.append(f"... and {len(self.lines) - limit} more problems")
        super().__init__("\n".join(shown))


def is_disk_full(error: BaseException) -> bool:
    """True when a library's error means "no space left", whatever class it wears.

    safetensors, torch and sqlite each wrap ENOSPC in an exception of their own, some of them
    without an errno, so the text is looked at too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        text = str(seen).lower()
        if "no space left" in text or "disk is full" in text or "disk quota" in text:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def explain_disk_full(path: Path) -> Iterator[None]:
    """Turn a full disk while writing `path` into a `UserError`; other errors pass unchanged."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError) and is_disk_full(error):
            raise UserError(
                f"{path}: the disk is full; free some space and run the same command again "
                "(finished stages are kept)"
            ) from error
        raise
