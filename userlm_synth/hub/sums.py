"""A release folder on this disk: its files and their checksums, and whether it has changed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from userlm_synth.errors import UserError
from userlm_synth.progress import Progress
from userlm_synth.records import sha256_file

SUMS = "SHA256SUMS"
CARD = "README.md"
BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Local:
    """A file of the folder as it was when its checksum was taken."""

    path: Path
    size: int
    changed: int  # modification time, ns
    sha256: str


def read_folder(folder: Path) -> dict[str, Local]:
    """The folder's files, each with the checksum that SHA256SUMS gives it."""
    if not (folder / SUMS).is_file() or not (folder / CARD).is_file():
        raise UserError(
            f"{folder}: no release folder ({SUMS} and {CARD} are due); make one with push --to"
        )
    sums = {**read_sums((folder / SUMS).read_text("utf-8")), SUMS: ""}
    paths = _paths(folder)
    if odd := sorted(set(sums) ^ set(paths)):
        what = "is missing" if odd[0] in sums else f"is not in {SUMS}"
        raise changed(folder, f"{odd[0]} {what}")
    files: dict[str, Local] = {}
    with Progress("checking files", len(paths), "files", pace=False) as progress:
        for name, path in paths.items():
            stat = path.stat()
            digest = sha256_file(path)
            if name != SUMS and digest != sums[name]:
                raise changed(folder, f"{name} is not what {SUMS} says")
            files[name] = Local(path, stat.st_size, stat.st_mtime_ns, digest)
            progress.step()
    return files


def read_sums(text: str) -> dict[str, str]:
    """{path: SHA-256} of lines `DIGEST  PATH`; nothing where the text is something else."""
    rows = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    if not all(len(row) == 2 and re.fullmatch("[0-9a-f]{64}", row[0]) for row in rows):
        return {}
    return {path.removeprefix("*"): digest for digest, path in rows}


def changed(folder: Path, what: str) -> UserError:
    """The folder is not, or no longer, what was released."""
    return UserError(f"{folder}: {what}; nothing is published of it; make the folder again")


def check_unchanged(folder: Path, files: dict[str, Local]) -> None:
    """Refuse a folder that changed since `read_folder`."""
    paths = _paths(folder)
    if odd := sorted(set(paths) ^ set(files)):
        raise changed(folder, f"{odd[0]} came or went during the push")
    for name, file in files.items():
        try:
            stat = paths[name].stat()
        except FileNotFoundError:
            raise changed(folder, f"{name} went during the push") from None
        if (stat.st_size, stat.st_mtime_ns) != (file.size, file.changed):
            raise changed(folder, f"{name} changed during the push")


def _paths(folder: Path) -> dict[str, Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def git_blob(path: Path) -> str:
    """The hash that git gives a file's content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
