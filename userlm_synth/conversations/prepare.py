"""Chats in, clean conversations out: one record form, split so that no user is in two splits.

    userlm-synth prepare --source wildchat --out DIR

Three passes. (1) Blocks of the source become shards in `DIR/.work`, in all processes: cleaned
lines and arrays of hashes. (2) The arrays say which conversations are copies. (3) The lines that
stay are copied, in the order of the source, to `train/validation/test.jsonl`, and a data card
tells how many went, where and why. A shard that is there is not made again, and everything else
follows from the shards: a run that was interrupted ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from userlm_synth._version import __version__
from userlm_synth.conversations.choose import TAKEN, Choice, check_ids, drop_copies
from userlm_synth.conversations.making import Job
from userlm_synth.conversations.output import write_out
from userlm_synth.conversations.shards import Places, Shard
from userlm_synth.conversations.sources import Block, open_source
from userlm_synth.conversations.sources.files import Numbered
from userlm_synth.conversations.splits import SPLITS
from userlm_synth.conversations.workers import SHOWN, SMALL, make_shards, stopped
from userlm_synth.errors import UserError
from userlm_synth.locks import locked
from userlm_synth.progress import say
from userlm_synth.recipe import Conversations
from userlm_synth.records import Record, make_folder, sha256_file, stable_hash, write_bytes

WRITTEN = (
    "card.json",
    *(f"{name}.jsonl" for name in (*SPLITS, "templates", "rejected", "dropped")),
)
FORMAT = 2  # of the shards; another one is not continued


class Source(Protocol):
    """What is asked of a source, whether of files, of the Hub, or generated."""

    @property
    def total_bytes(self) -> int | None: ...
    def blocks(self, start: int = 0) -> Iterator[Block]: ...
    def form(self, row: Record) -> str: ...
    def describe(self) -> Record: ...
    def identity(self) -> list[Any]: ...
    def commit(self) -> str | None: ...


@dataclass(frozen=True)
class Generated:
    """The embedded corpus as a source."""

    count: int
    seed: int
    total_bytes: int = 0

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """All conversations, at once."""
        from userlm_synth.world import make_conversations

        if start == 0:
            records = make_conversations(self.count, self.seed)
            yield Block(0, "quickstart", 1, 0, Numbered(list(enumerate(records, 1))))

    def form(self, row: Record) -> str:
        """Rows are records already."""
        return "messages"

    def describe(self) -> Record:
        """For the data card."""
        where = f"generated: {self.count} conversations of seed {self.seed}"
        return {
            "name": "quickstart", "where": where, "revision": __version__,
            "license": "apache-2.0", "format": "messages",
        }  # fmt: skip

    def identity(self) -> list[Any]:
        """What the text follows from."""
        return [__version__, self.count, self.seed]

    def commit(self) -> None:
        """It is not on the Hub."""


def prepare(settings: Conversations, out: Path, seed: int) -> Record:
    """Write the splits and the data card into `out`; returns counts."""
    source: Source
    if settings.source == "quickstart":
        source = Generated(settings.count, seed)
    else:
        _refuse_source_in(out, Path(settings.source))
        source = open_source(settings, _commit_of_former_run(settings.source, out))
    make_folder(out)
    with locked(out, f"{out}: another run is at work in this folder; wait for it"):
        job = Job(settings, source, seed, _work_folder(settings, source, seed, out))
        try:
            counts = _all_passes(job, source, out)
        except UserError:
            if source.total_bytes is not None and source.total_bytes <= SMALL:
                _clear(job.folder)  # nothing in it that is worth continuing
                with suppress(OSError):
                    out.rmdir()  # unless it holds something
            raise
        _clear(job.folder)
    return counts


def _commit_of_former_run(address: str, out: Path) -> str | None:
    """Where an interrupted run read from the Hub: it goes on there, though the dataset moved."""
    try:
        former, commit = (out / ".work" / "commit").read_text().split()
    except (OSError, ValueError):
        return None
    return commit if former == address else None


def _refuse_source_in(out: Path, source: Path) -> None:
    """Output that would overwrite the source, or be read as a part of it the next time."""
    if source.is_dir():
        clash = source.resolve() in (out.resolve(), *out.resolve().parents)
    else:
        clash = source.resolve().parent == out.resolve() and source.name in WRITTEN
    if clash:
        raise UserError(f"{out}: is where the source {source} is; name another folder with --out")


def _all_passes(job: Job, source: Source, out: Path) -> Record:
    settings = job.settings
    shards, summary = make_shards(job, source)
    if not summary.drafts and not summary.rejected:
        raise UserError(f"{settings.source}: is empty; it needs at least one conversation")
    choice = check_ids(shards)
    _refuse_taken(settings, shards, choice)
    if settings.dedup:
        say("  looking for copies ...")
        drop_copies(shards, choice, settings.dedup)
    return write_out(job, source.describe(), shards, summary, choice, out)


def _clear(folder: Path) -> None:
    (folder / "key").unlink()  # first: half a folder is not to be continued
    shutil.rmtree(folder)


def _work_folder(settings: Conversations, source: Source, seed: int, out: Path) -> Path:
    """`out/.work`, emptied where it belongs to other settings or another state of the source."""
    lasting = dataclasses.asdict(settings)
    for name in ("workers", "on_error", "license"):  # no shard depends on these
        lasting.pop(name)
    excluded = settings.clean and settings.clean.exclude_ids
    ids = sha256_file(Path(excluded)) if excluded else None
    key = stable_hash(FORMAT, __version__, lasting, ids, seed, source.identity())
    folder = out / ".work"
    mark = folder / "key"
    if not mark.is_file() or mark.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if commit := source.commit():
            write_bytes(folder / "commit", [f"{settings.source} {commit}".encode()])
        write_bytes(mark, [key.encode()])
    return folder


def _refuse_taken(settings: Conversations, shards: list[Shard], choice: Choice) -> None:
    """Ids that stand for two different conversations, where such faults stop the run."""
    taken = np.flatnonzero(choice.why == TAKEN)
    if settings.on_error == "reject" or not len(taken):
        return
    places = Places(shards)
    raise stopped(
        [
            f"{places.where(row)}: id: {places.record(row)['id']!r} is another conversation's too, "
            f"at {places.where(choice.first[row])}"
            for row in taken[: SHOWN + 1].tolist()
        ]
    )
