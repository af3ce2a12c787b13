"""Datasets on the Hub: pinned to a commit, read as a stream through `datasets`.

The commit is the one given after @, or the newest one, resolved once; a resumed run names the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from userlm_synth.conversations.sources.catalogue import HUB, hub_address, named
from userlm_synth.conversations.sources.files import (
    Block,
    Fault,
    Table,
    value_pieces,
)
from userlm_synth.conversations.sources.recognising import table_form
from userlm_synth.conversations.sources.streams import CHUNK, Broken
from userlm_synth.conversations.sources.tables import pack
from userlm_synth.errors import UserError

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations

ROWS = 1000  # of a block


@dataclass(frozen=True)
class HubSource:
    """A split of a dataset at a commit."""

    settings: Conversations
    repo: str
    sha: str
    config: str | None
    split: str
    file: str | None  # one JSON file, read as it is
    license: str | None

    @property
    def address(self) -> str:
        """As shown to people, and as a recipe pins it."""
        return f"{HUB}{self.repo}@{self.sha}"


def resolve(settings: Conversations, commit: str | None = None) -> HubSource:
    """The dataset at its commit; raises UserError in one line where it cannot be had.

    Without a revision in its address it is at `commit`, and without one where it stands now.
    """
    from huggingface_hub import HfApi

    address = hub_address(settings.source)
    if address is None:
        raise UserError(f"{settings.source}: is no dataset on the Hub")
    repo, revision = address[0], address[1] or commit
    known = named(settings.source)
    with _explained(repo, revision):
        api = HfApi()
        info = api.dataset_info(repo, revision=revision)
        if info.gated or info.private:
            api.auth_check(repo, repo_type="dataset")
    card = info.card_data.get("license") if info.card_data else None
    return HubSource(
        settings,
        repo,
        str(info.sha),
        settings.hub_config or (known.config if known else None),
        settings.hub_split,
        known.file if known else None,
        known.license if known else card if isinstance(card, str) else None,
    )


def hub_blocks(source: HubSource, start: int = 0) -> Iterator[Block]:
    """Blocks of `ROWS` rows from number `start` on; a fault in the data is the last block."""
    if source.file:
        yield from _file_blocks(source, source.file, start)
        return
    number, size, file = start, 0, source.address
    with _explained(source.repo, source.sha):
        batches = iter(_open(source).skip(start * ROWS).with_format("arrow").iter(ROWS))
    while True:
        try:
            with _explained(source.repo, source.sha, number * ROWS):
                table = next(batches, None)
        except Broken as error:
            yield Block(number, file, number * ROWS, size, Fault(str(error), whole_file=True))
            return
        if table is None:
            return
        try:
            form = table_form(table.column_names, source.settings)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        packed = pack(table, form)
        size += len(packed)
        yield Block(number, file, number * ROWS + 1, size, Table(packed))
        number += 1


def _open(source: HubSource) -> Any:
    from datasets import load_dataset

    return load_dataset(
        source.repo, source.config, split=source.split, revision=source.sha, streaming=True
    )


def _file_blocks(source: HubSource, file: str, start: int) -> Iterator[Block]:
    """A JSON list piece by piece: `datasets` would hold the whole of it in memory."""
    from huggingface_hub import HfFileSystem

    path = f"datasets/{source.repo}@{source.sha}/{file}"

    def chunks() -> Iterator[tuple[bytes, int]]:
        with _explained(source.repo, source.sha), HfFileSystem().open(path, "rb") as stream:
            while data := stream.read(CHUNK):
                yield data, stream.tell()

    number = -1
    try:
        for number, (first, size, payload) in enumerate(value_pieces(chunks(), CHUNK)):
            if number >= start:
                yield Block(number, source.address, first, size, payload)
    except Broken as error:
        if number + 1 >= start:
            fault = Fault(str(error), whole_file=True)
            yield Block(number + 1, source.address, error.after, 0, fault)


@contextmanager
def _explained(repo: str, revision: str | None, row: int | None = None) -> Iterator[None]:
    """The Hub's errors as UserError, in one line that says what to do; faulty data as Broken."""
    import pyarrow as pa
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{repo}"
    where = HUB + repo
    try:
        yield
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, DatasetNotFoundError) as error:
        if isinstance(error, errors.GatedRepoError) or "is a gated" in str(error):
            raise UserError(
                f"{where}: is gated; accept its terms at {page}, then set HF_TOKEN or run "
                "`hf auth login`"
            ) from None
        raise UserError(
            f"{where}: there is no such dataset, or it is private; check the name, and for a "
            "private one set HF_TOKEN or run `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{where}: has no revision {revision!r}; see {page}/commits/main") from None
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{where}: HF_HUB_OFFLINE is set, so that the Hub is not asked") from None
    except errors.LocalEntryNotFoundError:
        raise UserError(f"{where}: the Hub cannot be reached; run the same command again") from None
    except (FileNotFoundError, ValueError, DatasetsError, pa.ArrowException, RuntimeError) as error:
        what = " ".join(str(error).split())[:300]
        if row is not None:
            raise Broken(f"cannot be read after this row ({what})", row) from None
        choice = "; see conversations.hub_config and conversations.hub_split"
        hint = choice if "onfig" in what or "split" in what else ""
        raise UserError(f"{where}: {what.split(' Example of usage')[0]}{hint}") from None
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]  # as httpx names it
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{where}: the Hub cannot be reached ({what}); run the same command again"
        ) from None
