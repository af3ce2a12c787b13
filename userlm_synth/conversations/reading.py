"""Conversations out of any dataset, as plain records: for reports, releases and checks.

    opened = open_records("runs/mine")        # raises UserError where there is nothing to read
    for block in opened.blocks():             # in one process: bounded, in order, cheap to pickle
        for place, record in records_in(block):   # in any process: a record, or why there is none

Unlike `conversations.prepare` nothing is cleaned, dropped or split: what is said of a dataset is
said of what is in it. Dialogues of ours keep all their fields; other forms become conversations,
without system and tool messages. Of a tree of messages the best-ranked path is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from userlm_synth.conversations.as_records import count_rows, records_in, rows_in
from userlm_synth.conversations.sources import files, form_of, hub, located, open_source
from userlm_synth.conversations.sources.catalogue import hub_address
from userlm_synth.errors import UserError
from userlm_synth.recipe import Conversations

__all__ = ["Block", "NoForm", "Opened", "Part", "open_records", "records_in", "rows_in"]

#: What lies beside conversations in a folder, and holds none (or none that were accepted).
BESIDE = frozenset(
    ("bill.json", "card.json", "manifest.json", "report.json", "evaluation.json", "utility.json",
     "benchmark.json", "dataset_info.json", "dataset_infos.json", "rejected.jsonl",
     "dropped.jsonl")
)  # fmt: skip


class NoForm(UserError):
    """A whole table that holds no conversations of a known form."""


@dataclass(frozen=True)
class Part:
    """A file, or a split of a dataset on the Hub."""

    settings: Conversations
    split: str  # empty where there is none
    remote: hub.HubSource | None = None

    @property
    def address(self) -> str:
        """As shown to people."""
        where = self.remote.address if self.remote else self.settings.source
        return f"{where} {self.split}".rstrip() if self.remote else where

    def blocks(self) -> Iterator[files.Block]:
        """The rows as `conversations.sources` reads them."""
        if not self.remote:
            yield from open_source(self.settings).blocks()
            return
        with _read_by_datasets(self.remote):
            try:
                yield from hub.hub_blocks(self.remote)
            except UserError as error:
                said = _reworded(str(error))
                raise NoForm(said) if said != str(error) else error from None


@dataclass(frozen=True)
class Block:
    """Neighbouring rows of one part; `records_in` unpacks them."""

    place: int  # of the first row, over the whole set
    part: Part
    inner: files.Block

    def where(self, number: int) -> str:
        """A row as shown to people: `chats.jsonl:12`, `hf://datasets/me/x@sha train row 12`."""
        if not self.part.remote:
            return located(self.inner.file, number)
        return f"{self.part.address} row {number}" if number else self.part.address


@dataclass(frozen=True)
class Opened:
    """A dataset that can be read, any number of times; picklable."""

    name: str
    kind: str  # run, dialogues, published, file, folder, hub
    parts: tuple[Part, ...] = field(repr=False)
    rejected: Path | None = None  # rejected.jsonl of a dialogues folder
    bill: Path | None = None  # bill.json of one: what it cost

    @property
    def total_bytes(self) -> int | None:
        """Of the files as they are; None where it is not known."""
        if any(part.remote for part in self.parts):
            return None
        return sum(Path(part.settings.source).stat().st_size for part in self.parts)

    def blocks(self) -> Iterator[Block]:
        """All rows, in order; raises UserError where a table on the Hub has no known form."""
        place = 0
        for part in self.parts:
            for inner in part.blocks():
                yield Block(place, part, inner)
                place += count_rows(inner.payload)


# ---- what there is to read -------------------------------------------------------------------


def open_records(where: str | Path) -> Opened:
    """A run, dialogues or published folder, a file, or `hf://datasets/ORG/NAME[@REVISION]`.

    Raises `UserError` where nothing can be read, or no form of conversations is known to fit.
    """
    if hub_address(str(where)):
        return _on_hub(str(where))
    opened = _local(Path(where))
    said: list[str] = []
    for part in opened.parts:
        found = _unknown(part)
        if found is None:
            return opened
        said.append(found)
    raise UserError(said[0])


def _local(path: Path) -> Opened:
    name = path.resolve().name
    if path.is_file():
        return Opened(name, "file", _parts(files.find_files(str(path))))
    for folder, kind in ((path / "dialogues", "run"), (path, "dialogues")):
        if parts := sorted(folder.glob("part-*.jsonl*")):
            kept, bill = folder / "rejected.jsonl", folder / "bill.json"
            title = path.resolve().parent.name if name == "dialogues" else name
            return Opened(
                title or name, kind, _parts(parts),
                kept if kept.is_file() else None, bill if bill.is_file() else None,
            )  # fmt: skip
    for folder in (path, path / "dataset"):
        if tables := sorted((folder / "data").glob("*.parquet"), key=_split_order):
            return Opened(name, "published", _parts(tables, splits=True))
    if (path / "dialogues").is_dir() or (path / "manifest.json").is_file():
        raise UserError(
            f"{path}: has no dialogues in it (dialogues/part-*.jsonl); run "
            "`userlm-synth generate`, or name a file"
        )
    found = [one for one in files.find_files(str(path)) if not _is_beside(one)]
    if not found:
        raise UserError(f"{path}: has no file of conversations in it")
    return Opened(name, "folder", _parts(found))


def _is_beside(path: Path) -> bool:
    return path.name in BESIDE or path.name.endswith(".schema.json")


def _parts(paths: list[Path], *, splits: bool = False) -> tuple[Part, ...]:
    return tuple(
        Part(Conversations(source=str(path), paths="best"), split_of(path) if splits else "")
        for path in paths
    )


def split_of(path: Path) -> str:
    """`data/train-00000-of-00002.parquet` -> train."""
    return path.name.split("-")[0].split(".")[0]


def _split_order(path: Path) -> tuple[int, str]:
    known = ("train", "validation", "test")
    split = split_of(path)
    return known.index(split) if split in known else len(known), path.name


def _on_hub(where: str) -> Opened:
    """The default split of a dataset; of one of ours all of them."""
    first = hub.resolve(Conversations(source=where, paths="best"))
    if first.file:
        return Opened(first.repo, "hub", (Part(first.settings, "", first),))
    parts = hub_parts(first)
    if not is_ours(first):
        parts = [_default(parts)]
    return Opened(first.repo, "hub", tuple(parts))


def _default(parts: list[Part]) -> Part:
    """The training split, of the first configuration that holds conversations."""
    configs = list(dict.fromkeys(part.settings.hub_config for part in parts))
    chosen = []
    for config in configs:
        splits = [part for part in parts if part.settings.hub_config == config]
        chosen.append(next((one for one in splits if one.settings.hub_split == "train"), splits[0]))
    for part in chosen[: len(chosen) if len(chosen) > 1 else 0]:
        try:
            next(part.blocks(), None)
        except NoForm:
            continue
        return part
    return chosen[0]


def is_ours(source: hub.HubSource) -> bool:
    """Whether a dataset on the Hub was published by this toolkit: its schema lies in it."""
    from huggingface_hub import HfApi

    with hub._explained(source.repo, source.sha):
        return HfApi().file_exists(
            source.repo, "dialogue.schema.json", repo_type="dataset", revision=source.sha
        )


def hub_parts(first: hub.HubSource) -> list[Part]:
    """Every split of a dataset on the Hub, of the default configuration or else of all."""
    from datasets import get_dataset_config_names

    with hub._explained(first.repo, first.sha), _read_by_datasets(first):
        configs = [first.config] if first.config else get_dataset_config_names(
            first.repo, revision=first.sha
        )  # fmt: skip
        configs = ["default"] if "default" in configs else configs
        pairs = [(config, split) for config in configs for split in _split_names(first, config)]
    several = len(configs) > 1
    parts = []
    for config, split in pairs:
        settings = replace(first.settings, hub_config=config, hub_split=split)
        source = replace(first, settings=settings, config=config, split=split)
        parts.append(Part(settings, f"{config}/{split}" if several else split, source))
    return parts


def _split_names(source: hub.HubSource, config: str) -> list[str]:
    from datasets import get_dataset_split_names

    try:
        names: list[str] = get_dataset_split_names(source.repo, config, revision=source.sha)
    except ValueError as error:  # which hides what is wrong with the files
        raise ValueError(str(error.__cause__ or error)) from None
    return names


@contextmanager
def _read_by_datasets(source: hub.HubSource) -> Iterator[None]:
    """What `datasets` makes of files that it does not understand, in one line."""
    try:
        yield
    except (AttributeError, ImportError, LookupError, NotImplementedError, TypeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{source.address}: `datasets` cannot read it ({what})") from None


def _unknown(part: Part) -> str | None:
    """Why the first row of a part that can be read has no known form; None where it has one."""
    inner = next(part.blocks(), None)
    if inner is None:
        return f"{part.address}: is empty; there is no conversation in it"
    block, said = Block(0, part, inner), None
    for _, number, row in rows_in(block):
        if isinstance(row, str):
            said = said or _reworded(f"{block.where(number)}: {row}")
            continue
        try:
            form_of(row, part.settings)
        except UserError as error:
            return _reworded(f"{part.address}: {error}")
        return None
    return said or f"{part.address}: is empty; there is no conversation in it"


def _reworded(said: str) -> str:
    """With advice that fits where there is no recipe."""
    what, advice, _ = said.partition("; give conversations.")
    if not advice:
        return said
    return (
        f"{what}; a conversation is `messages`, a list of {{role, content}}; "
        "`userlm-synth prepare` with conversations.columns makes one"
    )
