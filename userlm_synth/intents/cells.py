"""What new intents are to be about: cells of a taxonomy or of seed intents, crossed with personas.

A taxonomy is YAML, domain -> topics; a topic is a text or `{topic, notes, actions}`:

    Cooking:
      - weeknight dinners
      - topic: baking bread
        notes: sourdough too
        actions: [find out what went wrong, scale a recipe up or down]
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userlm_synth.errors import Problems, UserError
from userlm_synth.records import (
    INTENT_OPENING,
    Record,
    guess_schema,
    read_lines,
    record_problems,
)

SEEDS_SHOWN = 5  # in one request

#: Sorts of goals to lean towards, one a visit, where a topic has no `actions` of its own.
ACTIONS = (
    "understand or learn something", "get something written", "plan or organise something",
    "find out what went wrong and mend it", "choose between several ways", "get ideas",
    "revise, check or judge something that is there already", "work something out in numbers",
    "prepare for a talk, a meeting or an exam", "settle a matter with other people",
    "turn one form into another (summarise, translate, reorder)",
    "do it for the first time, with little time or money",
)  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """One subject, or (`seeds`) a few intents to write others like."""

    domain: str
    name: str
    notes: str = ""
    actions: tuple[str, ...] = ACTIONS
    seeds: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """The lines about it in a request; "" where seeds say it all."""
        if self.seeds:
            return ""
        lines = [f"Domain: {self.domain}", f"Topic: {self.name}"]
        return "\n".join([*lines, f"Notes: {self.notes}"] if self.notes else lines)


@dataclass(frozen=True)
class Persona:
    """A person whose goals these are."""

    id: str
    text: str


@dataclass(frozen=True)
class Cell:
    """What one request is about; `number` is its place in the plan."""

    number: int
    topic: Topic
    persona: Persona | None


def plan_cells(topics: list[Topic], personas: list[Persona], seed: int) -> Iterator[Cell]:
    """Every topic x persona once: all topics in turn, domains mixed, then again with other people.

    In the p-th pass topic i meets persona p + i (modulo their number), so that each pass uses as
    many people as it can. The order depends on `seed` alone.
    """
    rng = random.Random(seed)
    by_domain: dict[str, list[Topic]] = {}
    for topic in topics:
        by_domain.setdefault(topic.domain, []).append(topic)
    domains = list(by_domain.values())
    rng.shuffle(domains)
    for domain in domains:
        rng.shuffle(domain)
    longest = max(map(len, domains))
    mixed = [domain[i] for i in range(longest) for domain in domains if i < len(domain)]
    people: list[Persona | None] = list(personas) or [None]
    rng.shuffle(people)
    for number in range(len(mixed) * len(people)):
        turn, place = divmod(number, len(mixed))
        yield Cell(number, mixed[place], people[(turn + place) % len(people)])


# ---- files -----------------------------------------------------------------------------------


def default_taxonomy() -> Path:
    """The taxonomy that comes with the package."""
    return Path(__file__).resolve().with_name("taxonomy.yaml")


def read_taxonomy(path: Path) -> list[Topic]:
    """The topics of a taxonomy file; every problem at once."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not data:
        raise UserError(f"{path}: a taxonomy is YAML with domains, each a list of topics")
    topics: list[Topic] = []
    problems: list[str] = []
    for domain, items in data.items():
        if not isinstance(domain, str) or not isinstance(items, list) or not items:
            problems.append(f"{path}: {domain}: is to be a name with a list of topics")
            continue
        for place, item in enumerate(items):
            given = {"topic": item} if isinstance(item, str) else item
            fault = _topic_fault(given)
            if fault:
                problems.append(f"{path}: {domain}[{place}]: {fault}")
                continue
            actions = tuple(given.get("actions", ACTIONS))
            topics.append(Topic(domain, given["topic"], given.get("notes", ""), actions))
    names = [(topic.domain, topic.name) for topic in topics]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    problems += [f"{path}: {domain}: {name!r} is there twice" for domain, name in twice]
    if problems:
        raise Problems(problems)
    return topics


def _topic_fault(item: Any) -> str:
    if not isinstance(item, dict) or not isinstance(item.get("topic"), str):
        return "is to be a text, or a mapping with a text `topic`"
    if not item["topic"].strip():
        return "is empty"
    if unknown := set(item) - {"topic", "notes", "actions"}:
        return f"unknown {', '.join(sorted(map(repr, unknown)))}; known: topic, notes, actions"
    if not isinstance(item.get("notes", ""), str):
        return "notes: is to be a text"
    actions = item.get("actions", ["-"])
    if not isinstance(actions, list) or not actions or not all(isinstance(a, str) for a in actions):
        return "actions: is to be a list of texts"
    return ""


def read_seeds(path: Path) -> list[Topic]:
    """Seed intents, SEEDS_SHOWN neighbours together, from a file of intents or conversations."""
    goals: list[tuple[int, str]] = []
    problems: list[str] = []
    for line, record in read_lines(path):
        found = record_problems(record, guess_schema(record))
        if not found and not record.get("intent"):
            found = ["intent: is missing; make it with `userlm-synth intents make`"]
        problems += [f"{path}:{line}: {problem}" for problem in found]
        if not found:
            goals.append((line, record["intent"].removeprefix(INTENT_OPENING).strip()))
    if problems:
        raise Problems(problems)
    if not goals:
        raise UserError(f"{path}: is empty; it needs at least one intent, a JSON object a line")
    topics = []
    for start in range(0, len(goals), SEEDS_SHOWN):
        group = goals[start : start + SEEDS_SHOWN]
        name = f"lines {group[0][0]}-{group[-1][0]}"
        topics.append(Topic(path.name, name, seeds=tuple(goal for _, goal in group)))
    return topics


def read_personas(path: Path) -> list[Persona]:
    """Personas, JSONL {id, persona}; other fields are let be."""
    personas: list[Persona] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for line, record in read_lines(path):
        fault = _persona_fault(record, seen)
        if fault:
            problems.append(f"{path}:{line}: {fault}")
            continue
        seen[record["id"]] = line
        personas.append(Persona(record["id"], record["persona"].strip()))
    if problems:
        raise Problems(problems)
    if not personas:
        raise UserError(f"{path}: is empty; it needs at least one {{id, persona}}, one a line")
    return personas


def _persona_fault(record: Any, seen: dict[str, int]) -> str:
    if not isinstance(record, dict):
        return "is to be an object {id, persona}"
    as_intent: Record = {"id": record.get("id"), "intent": record.get("persona")}
    found = record_problems(as_intent, "intent")  # the same rules: texts, and whole ones
    if found:
        return found[0].replace("intent:", "persona:", 1)
    return (
        f"id: {record['id']!r} is on line {seen[record['id']]} too" if record["id"] in seen else ""
    )
