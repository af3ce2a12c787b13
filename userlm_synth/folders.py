"""Folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from userlm_synth.errors import explain_disk_full


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write to; it takes the place of `folder` once all of it is on the disk.

    Where writing fails, what was there before stays. Raises `UserError` for a full disk.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        with explain_disk_full(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            shutil.rmtree(folder, ignore_errors=True)
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
