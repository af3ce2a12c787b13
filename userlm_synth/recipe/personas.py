"""Who is who: the persona text of a conversation, and the groups of people that have adapters.

Both read a record's own fields by dotted path: `user_id`, `language`, `source`, `metadata.KEY`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING

from userlm_synth.records import Record, stable_hash

if TYPE_CHECKING:
    from userlm_synth.recipe.sections import Personas, Recipe

FIELDS = ("user_id", "language", "source", "metadata.KEY")
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # a folder's name on every file system


def is_field(path: str) -> bool:
    """Whether a dotted path names one of FIELDS."""
    first, _, rest = path.partition(".")
    return all(rest.split(".")) if first == "metadata" else path in FIELDS[:3]


def text_at(record: Record, path: str) -> str | None:
    """The value at a dotted path as text, as a recipe would read it (true is `yes`); None where
    there is none, or it is a list or a mapping."""
    value: object = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).strip() or None if isinstance(value, (str, int, float)) else None


class PersonaText:
    """A template such as `Writes in a {metadata.style} way.`; a ValueError says what is wrong."""

    def __init__(self, template: str) -> None:
        self.parts: list[tuple[str, str | None]] = []
        for text, path, form, conversion in Formatter().parse(template):
            if path is not None and (form or conversion or not is_field(path)):
                more = (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
                known = ", ".join(f"{{{one}}}" for one in FIELDS)
                raise ValueError(f"{{{path}{more}}} is not a field; there are {known}")
            self.parts.append((text, path))

    def of(self, record: Record) -> tuple[str | None, str | None]:
        """The text for one conversation; or None, and the field that it lacks."""
        out = ""
        for text, path in self.parts:
            value = text_at(record, path) if path else ""
            if value is None:
                return None, path
            out += text + value
        return out, None


@dataclass(frozen=True)
class Group:
    """People with one adapter; `name` is its folder's, and all `filters` must match."""

    name: str
    filters: Mapping[str, tuple[str, ...]]

    def has(self, record: Record) -> bool:
        """Whether a conversation is one of theirs."""
        return all(text_at(record, path) in values for path, values in self.filters.items())


def groups_of(settings: Personas, records: Sequence[Record]) -> list[Group]:
    """The groups that a recipe names, or one for each value of `by` in the records."""
    if settings.groups is not None:
        return [Group(name, filters) for name, filters in settings.groups.items()]
    assert settings.by
    values = sorted({value for one in records if (value := text_at(one, settings.by)) is not None})
    folded = [value.casefold() for value in values]
    return [
        Group(_folder_name(value, folded.count(value.casefold()) > 1), {settings.by: (value,)})
        for value in values
    ]


def members(groups: Sequence[Group], records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each group, by its name, in one pass over all."""
    found: dict[str, list[Record]] = {group.name: [] for group in groups}
    by_value: dict[tuple[str, str | None], list[Group]] = {}
    for group in groups:
        path, values = next(iter(group.filters.items()))
        for value in dict.fromkeys(values):
            by_value.setdefault((path, value), []).append(group)
    paths = {path for path, _ in by_value}
    for record in records:
        for path in paths:
            for group in by_value.get((path, text_at(record, path)), ()):
                if group.has(record):
                    found[group.name].append(record)
    return found


def _folder_name(value: str, shared: bool) -> str:
    """The value itself where it can be a folder's name, alone so on every file system; else made
    into one, with a hash of the value to tell it from others."""
    if FOLDER.fullmatch(value) and not shared:
        return value
    plain = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:40] or "people"
    return f"{plain}-{stable_hash(value)[:8]}"


def persona_problems(recipe: Recipe) -> Iterator[str]:
    """What is wrong with a recipe's persona text and its groups."""
    chats, personas = recipe.conversations, recipe.personas
    if chats and chats.persona is not None:
        try:
            PersonaText(chats.persona)
        except ValueError as error:
            yield f"conversations.persona: {error}"
    if personas is None:
        return
    if not chats:
        yield "conversations: is missing; the personas section needs it"
    if not recipe.train and not (recipe.base and recipe.base.model):
        yield "personas: needs a user LM: a train section, or base.model that is one already"
    if (personas.by is None) == (personas.groups is None):
        yield "personas: give either by (user_id or metadata.KEY) or groups (named filters)"
    if personas.by and not is_field(personas.by):
        yield f"personas.by: {personas.by!r} is not a field; there are {', '.join(FIELDS)}"
    divided = {"user": "user_id"}.get(chats.split_by, chats.split_by) if chats else None
    if personas.by and personas.by == divided:
        yield (
            f"personas.by: the splits divide by {divided} too, so nobody who is trained on has "
            "held-out turns; set conversations.split_by, to conversation for example"
        )
    if personas.groups is not None:
        yield from _group_problems(personas.groups)


def _group_problems(groups: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Iterator[str]:
    folded = [name.casefold() for name in groups]
    if not groups:
        yield "personas.groups: is empty"
    for name, filters in groups.items():
        where = f"personas.groups.{name}"
        if not FOLDER.fullmatch(name):
            yield f"{where}: is to be a folder's name: letters, digits, '.', '_' and '-'"
        if folded.count(name.casefold()) > 1:
            yield f"{where}: another one differs in case alone"
        if not filters:
            yield f"{where}: has no filter, as in metadata.style: [terse]"
        for path, values in filters.items():
            if not is_field(path):
                yield f"{where}.{path}: is not a field; there are {', '.join(FIELDS)}"
            elif not values:
                yield f"{where}.{path}: has no values"
