"""What form of conversations a dataset has, and what is wrong with it: `validate` of datasets.

    summary = check_dataset("hf://datasets/me/chats")     # UserError where it cannot be had
    print(*summary.lines(), *summary.problems, sep="\\n")

Every row is read. Dialogues and conversations of ours are held against their schema, their ids
against each other, and a published copy against its manifest and checksums; in other forms a row
has to be a conversation: texts, known roles, sides that take turns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userlm_synth.conversations.as_records import OWN, SIDES, decoded, rows_in
from userlm_synth.conversations.reading import (
    Block,
    NoForm,
    Opened,
    Part,
    hub_parts,
    is_ours,
    open_records,
)
from userlm_synth.conversations.shards import kind_of
from userlm_synth.conversations.sources import BadRow, drafts, form_of, hub
from userlm_synth.conversations.sources.catalogue import hub_address
from userlm_synth.errors import UserError
from userlm_synth.progress import Progress
from userlm_synth.recipe import Conversations
from userlm_synth.records import (
    Record,
    file_problems,
    guess_schema,
    load_schema,
    parse_json,
    record_problems,
    sha256_file,
)

SHOWN = 3  # places of a kind of problem that are named
KINDS = 100  # of problems that are told apart
ROLES = 20  # that are counted each
#: Where a form's turns are, and what says who speaks.
TURNS = {
    "messages": ("messages", "role"),
    "sharegpt": ("conversations", "from"),
    "wildchat": ("conversation", "role"),
    "lmsys": ("conversation", "role"),
    "prism": ("conversation_history", "role"),
}
OURS = {"dialogue": "userlm_synth dialogues", "conversation": "userlm_synth conversations"}
JSON_FILES = (".jsonl", ".ndjson", ".json", ".gz")


@dataclass
class Summary:
    """What was found; `problems` names the first of each kind, `count` counts all."""

    name: str
    rows: int = 0
    count: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)  # conversations by their turns
    problems: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    formless: list[str] = field(default_factory=list)  # tables without conversations
    ready: int = 0  # rows that trainers take as they are
    columns: tuple[str, ...] = ()

    def wrong(self, where: str, what: str) -> None:
        """One more problem."""
        kind = kind_of(what)
        kind = kind if kind in self.kinds or len(self.kinds) < KINDS else "other"
        self.count += 1
        self.kinds[kind] += 1
        if self.kinds[kind] <= SHOWN:
            self.problems.append(f"{where}: {what}")

    def lines(self) -> list[str]:
        """The summary for people: form, rows, turns, roles, and what trainers will say."""
        said = [self.name, f"  form: {_listed(self.forms) or 'no conversations'}"]
        said += [f"  no conversations in {one}" for one in self.formless if self.forms]
        named = [f"{split} {count:,}" for split, count in self.splits.items() if split]
        said.append(f"  rows: {self.rows:,}" + (f" ({', '.join(named)})" if named else ""))
        if total := self.lengths.total():
            mean = sum(length * count for length, count in self.lengths.items()) / total
            said.append(
                f"  turns: {mean:.1f} a conversation, {min(self.lengths)} to {max(self.lengths)}; "
                f"roles: {_listed(self.roles)}"
            )
        if self.forms:
            said.append(f"  TRL: {self._trl()}")
        if self.count > len(self.problems):
            said.append(f"  wrong: {_listed(self.kinds, ': ')}")
        return said

    def _trl(self) -> str:
        """Whether `SFTTrainer` takes it (https://huggingface.co/docs/trl/dataset_formats)."""
        if "messages" not in self.columns:
            form = next(iter(self.forms))
            return f"not as it is; `userlm-synth prepare` makes `messages` of {form}"
        place = self.columns.index("messages")
        beside = (
            "`messages` is the first column" if not place else f"`messages` is column {place + 1}"
        )
        if self.ready == self.rows:
            return f"{beside}; every row is ready for SFTTrainer"
        return f"{beside}; {self.ready:,} of {self.rows:,} rows are ready for SFTTrainer"


def _listed(counts: Counter[str], mark: str = " ") -> str:
    return ", ".join(f"{name}{mark}{count:,}" for name, count in counts.most_common())


# ---- what is checked -------------------------------------------------------------------------


def is_dataset(where: str) -> bool:
    """Whether it is for `check_dataset`; records of ours in JSON files are checked line by line."""
    path = Path(where)
    if hub_address(where) or path.is_dir():
        return True
    if not path.is_file() or path.suffix in (".yaml", ".yml"):
        return False
    if path.suffix not in JSON_FILES or ".csv" in path.suffixes or ".tsv" in path.suffixes:
        return True
    return _is_foreign(path)


def _is_foreign(path: Path) -> bool:
    """Whether a JSON file begins with a conversation in another form than ours."""
    if guess_schema(None, path.name) != "conversation":
        return False
    try:
        opened = open_records(path)
        block = next(opened.blocks())
        row = next(row for _, _, row in rows_in(Block(0, opened.parts[0], block.inner)))
        return isinstance(row, dict) and form_of(row, block.part.settings) != "messages"
    except (UserError, StopIteration):
        return False


def check_dataset(address: str, schema: str | None = None) -> Summary:
    """Read all of a dataset; raises `UserError` where there is nothing to read.

    `schema`: of every row; without it rows in our own form are held against theirs.
    """
    if schema:
        load_schema(schema)
    opened = _all_of(address)
    remote = opened.parts[0].remote
    summary = Summary(remote.address if remote else address)
    check = _Check(summary, schema)
    with Progress("checking", None, "rows") as progress:
        for part in opened.parts:
            for count in check.part(part):
                progress.step(count)
    if not summary.forms and summary.formless and not summary.count:
        for said in summary.formless:
            summary.wrong(summary.name, said)
    elif not summary.rows:
        summary.wrong(summary.name, "is empty; there is no conversation in it")
    for where, what in _beside(opened, summary):
        summary.wrong(where, what)
    return summary


def _all_of(address: str) -> Opened:
    """Every split of every configuration, unlike what is read for a report."""
    if not hub_address(address):
        return open_records(address)
    first = hub.resolve(Conversations(source=address, paths="best"))
    if first.file:
        return open_records(address)
    return Opened(first.repo, "hub", tuple(hub_parts(first)))


class _Check:
    """The rows of a dataset one after the other; ids are kept as hashes."""

    def __init__(self, summary: Summary, schema: str | None) -> None:
        self.summary, self.schema = summary, schema
        self.seen: dict[int, str] = {}

    def part(self, part: Part) -> Iterator[int]:
        """Check a file or split; yields how many rows after each block."""
        summary = self.summary
        try:
            for inner in part.blocks():
                block, before = Block(0, part, inner), summary.rows
                for _, number, row in rows_in(block):
                    self.row(block, number, row)
                yield summary.rows - before
        except NoForm as error:
            summary.formless.append(f"{part.split or part.address}: {error}")

    def row(self, block: Block, number: int, row: Record | str) -> None:
        """One row, or why there is none."""
        summary, where = self.summary, block.where(number)
        summary.rows += 1
        summary.splits[block.part.split] += 1
        if isinstance(row, str):
            summary.wrong(where, row.partition("; give conversations.")[0])
            return
        columns, forms = tuple(map(str, row)), summary.forms.total()
        found = self._own(row, where) if self._schema(row) else self._other(row, block, number)
        for what in found:
            summary.wrong(where, what)
        if summary.forms.total() > forms:
            summary.columns = summary.columns or columns
        summary.ready += not found and is_ready(row)

    def _schema(self, row: Record) -> str | None:
        if self.schema or "messages" not in row:
            return self.schema
        if {"stop_reason", "intent_id"} <= row.keys():
            return "dialogue"
        return "conversation" if row.keys() | {"user_id"} == OWN else None

    def _own(self, row: Record, where: str) -> list[str]:
        schema = self._schema(row) or ""
        self.summary.forms[OURS.get(schema, schema)] += 1
        self._count(row.get("messages"), "role")
        found = record_problems(decoded(row) if schema in OURS else row, schema)
        if not found and isinstance(row.get("id"), str):
            digest = hashlib.blake2b(row["id"].encode(), digest_size=16).digest()
            before = self.seen.setdefault(int.from_bytes(digest, "big"), where)
            if before is not where:
                found = [f"id: {row['id']!r} is at {before} too"]
        return found

    def _other(self, row: Record, block: Block, number: int) -> list[str]:
        settings = block.part.settings
        try:
            form = form_of(row, settings)
            self.summary.forms[form] += 1
            key, role = TURNS.get(form, ("", "role"))
            self._count(row.get(key), role)  # before a role that is not known is refused
            made = drafts(row, form, settings, block.inner.file, number)
        except BadRow as error:
            return [str(error)]
        except UserError as error:
            return [str(error).partition("; give conversations.")[0]]
        for one in made[: 0 if key else 1]:
            self._count(one["messages"], "role")
        return [what for one in made for what in turn_problems(one["messages"], key or form)] or (
            [] if made else ["has no conversation in it"]
        )

    def _count(self, turns: Any, role: str) -> None:
        if not isinstance(turns, list):
            return
        self.summary.lengths[len(turns)] += 1
        roles = self.summary.roles
        for one in turns:
            said = str(one.get(role) if isinstance(one, dict) else None)[:40]
            roles[said if said in roles or len(roles) < ROLES else "other"] += 1


def turn_problems(messages: list[Record], key: str) -> list[str]:
    """What is wrong with turns in any form: empty ones, sides that do not take turns.

    A system message may open, and the use of a tool may stand between two turns of a side.
    """
    if not any(one["role"] in SIDES for one in messages):
        return [f"{key}: has no turn of a user or an assistant"]
    found, before = [], "system"
    for place, one in enumerate(messages):
        role, where = one["role"], f"{key}[{place}]"
        if role == "system" and place:
            found.append(f"{where}: a system message that is not the first")
        if role not in SIDES:
            before = role if role != "system" else before
            continue
        if not one["content"].strip():
            found.append(f"{where}: is empty; give it some text")
        if role == before:
            found.append(f"{where}: two {role} turns in a row; merge them")
        elif before == "system" and role != "user":
            found.append(f"{where}: the user opens a conversation, not the {role}")
        before = role
    return found


def is_ready(row: Record) -> bool:
    """Whether a row is conversational as TRL has it: a list of `{role, content}`, both text."""
    turns = row.get("messages")
    return isinstance(turns, list) and all(
        isinstance(one, dict) and type(one.get("role")) is type(one.get("content")) is str
        for one in turns
    )


# ---- what lies beside the rows ---------------------------------------------------------------


def _beside(opened: Opened, summary: Summary) -> Iterator[tuple[str, str]]:
    """Problems of rejected dialogues; of a published copy's manifest and checksums."""
    if opened.rejected:
        for line in file_problems(opened.rejected, "rejected")[1]:
            where, _, what = line.partition(": ")
            yield where, what
    remote = opened.parts[0].remote
    if remote and not remote.file and is_ours(remote):
        yield from _counts(_hub_file(remote, "manifest.json"), summary)
    elif opened.kind == "published":
        folder = Path(opened.parts[0].settings.source).parent.parent
        manifest = folder / "manifest.json"
        yield from _counts(manifest.read_bytes() if manifest.is_file() else None, summary)
        yield from _sums(folder)


def _hub_file(source: hub.HubSource, name: str) -> bytes | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with hub._explained(source.repo, source.sha):
        try:
            path = hf_hub_download(source.repo, name, repo_type="dataset", revision=source.sha)
        except EntryNotFoundError:
            return None
        return Path(path).read_bytes()


def _counts(manifest: bytes | None, summary: Summary) -> Iterator[tuple[str, str]]:
    where = f"{summary.name} manifest.json"
    if manifest is None:
        return
    try:
        splits = parse_json(manifest)["splits"]
        said = {str(name): one["rows"] for name, one in splits.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        yield where, "does not say how many rows each split has; push again"
        return
    for split in sorted(said | summary.splits):
        if said.get(split, 0) != summary.splits[split]:
            yield (
                where,
                (
                    f"says {said.get(split, 0):,} rows of {split}, and there are "
                    f"{summary.splits[split]:,}; a file is missing or from another release"
                ),
            )


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    """Files that are not what SHA256SUMS says."""
    sums = folder / "SHA256SUMS"
    for line in sums.read_text("utf-8").splitlines() if sums.is_file() else ():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield str(sums), f"{name!r:.80} is outside of the folder"
        elif not path.is_file():
            yield str(path), "is missing, and SHA256SUMS has it"
        elif sha256_file(path) != digest:
            yield str(path), "is not what it was when SHA256SUMS was made; make the folder again"
