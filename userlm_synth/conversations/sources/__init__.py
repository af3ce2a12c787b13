"""Where conversations come from: files in many containers and forms, datasets on the Hub.

    source = open_source(settings)             # raises UserError where there is nothing to read
    for block in source.blocks(start=0):       # in one process: deterministic, memory bounded
        for number, row in rows(block):        # in any process: a row, or a Fault
            drafts(row, source.form(row), settings, block.file, number)

A fault of a row or of a whole file is a `Fault` in the stream, not an exception: the reader goes
on with the next row or file, and `located(block.file, number)` says where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.conversations.sources import files, hub
from userlm_synth.conversations.sources.catalogue import NAMED, hub_address, named
from userlm_synth.conversations.sources.drafting import BadRow, Draft
from userlm_synth.conversations.sources.files import Block, Fault, Numbered, located, rows
from userlm_synth.conversations.sources.forms import FORMS, drafts
from userlm_synth.conversations.sources.grouping import group_trees
from userlm_synth.conversations.sources.recognising import form_of, recognise
from userlm_synth.conversations.sources.trees import is_flat
from userlm_synth.records import Record

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations

__all__ = [
    "FORMS",
    "NAMED",
    "BadRow",
    "Block",
    "Draft",
    "Fault",
    "Numbered",
    "Source",
    "drafts",
    "form_of",
    "located",
    "open_source",
    "recognise",
    "rows",
]


@dataclass(frozen=True)
class Source:
    """One source, ready to be read; picklable."""

    settings: Conversations
    total_bytes: int | None  # of all files, compressed as they are; None for the Hub
    remote: hub.HubSource | None = None

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """Blocks from number `start` on, in the order of the files."""
        stream = self._blocks(0)
        first = next(stream, None)
        if first and self._is_table_of_messages(first):
            for block in group_trees(chain((first,), stream)):
                if block.number >= start:
                    yield block
        elif first:
            yield from self._blocks(start) if start else chain((first,), stream)

    def _blocks(self, start: int) -> Iterator[Block]:
        if self.remote:
            return hub.hub_blocks(self.remote, start)
        return files.blocks(self.settings, start)

    def _is_table_of_messages(self, block: Block) -> bool:
        row = next((row for _, row in rows(block) if not isinstance(row, Fault)), None)
        return row is not None and is_flat(row) and self.settings.format in ("auto", "oasst")

    def form(self, row: Record) -> str:
        """The form of a row: given, or that of the named source, or recognised."""
        return form_of(row, self.settings)

    def describe(self) -> Record:
        """For the data card: name, where, revision, license and terms (None where unknown)."""
        known = named(self.settings.source)
        own = self.settings.license
        return {
            "name": self.remote.repo if self.remote else Path(self.settings.source).name,
            "where": f"https://huggingface.co/datasets/{self.remote.repo}" if self.remote else None,
            "revision": self.remote.sha if self.remote else None,
            "license": own or (self.remote.license if self.remote else None),
            "terms": known.terms if known and not own else None,
        }

    def commit(self) -> str | None:
        """The commit of a dataset on the Hub, else None."""
        return self.remote.sha if self.remote else None

    def identity(self) -> list[Any]:
        """What must be unchanged for a resumed run: paths, sizes, mtimes; or the Hub's commit."""
        if self.remote:
            return [
                self.remote.repo,
                self.remote.sha,
                self.remote.config,
                self.remote.split,
                self.remote.file,
            ]
        stats = ((path, path.stat()) for path in files.find_files(self.settings.source))
        return [[path.as_posix(), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def open_source(settings: Conversations, commit: str | None = None) -> Source:
    """A source other than `quickstart`; raises UserError where there is nothing to read.

    `commit`: of a dataset on the Hub whose address names no revision, from an earlier run.
    """
    if hub_address(settings.source):
        return Source(settings, None, hub.resolve(settings, commit))
    found = files.find_files(settings.source)
    return Source(settings, sum(path.stat().st_size for path in found))
