"""Probes of a simulator: it has asked a question, the assistant does not know; what does it say?

Questions come from a file; a row that asks the same again is taken once. The assistant's reply is
one of our fixed ones, drawn by the seed, or a model's (`evaluate.unsure`). It depends on the
question alone, so that every simulator meets the same probes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth import metrics
from userlm_synth.backends.prompted import THOUGHT
from userlm_synth.errors import Problems, UserError
from userlm_synth.evaluation.kept import Turn
from userlm_synth.evaluation.sampling import Place, sample
from userlm_synth.evaluation.simulators import open_assistant
from userlm_synth.records import Message, Record, read_lines, sha256_file, stable_hash

if TYPE_CHECKING:
    from userlm_synth.recipe import Evaluate

FIXED = "unsure.yaml"
FIXED_VERSION = "userlm_synth unsure replies 1"


@dataclass(frozen=True)
class Question:
    """A question, with its choices where there are some; `text` is the user's first turn."""

    id: str
    text: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """A question and the assistant's reply to it."""

    question: Question
    reply: str


@dataclass(frozen=True)
class Probes:
    """The probes of one kind: who replied (`unsure`), and where the questions are from."""

    name: str
    intent: str
    may_end: bool
    probes: Sequence[Probe]
    unsure: str
    questions: str

    def places(self) -> list[Place]:
        """Where simulators answer."""
        return [
            Place(self._place(one), self.intent, _turns(one), may_end=self.may_end)
            for one in self.probes
        ]

    def answered(self, turns: Mapping[str, Turn]) -> Iterator[tuple[Probe, Turn]]:
        """Each probe with what a simulator said."""
        for one in self.probes:
            yield one, turns[self._place(one)]

    def _place(self, probe: Probe) -> str:
        return f"{self.name} {probe.question.id}"


def _turns(probe: Probe) -> tuple[Message, ...]:
    return (
        {"role": "user", "content": probe.question.text},
        {"role": "assistant", "content": probe.reply},
    )


def make_probes(
    name: str, intent: str, file: Path, questions: Sequence[Question], settings: Evaluate,
    out: Path, *, may_end: bool, request: str, seed: int,
) -> Probes:  # fmt: skip
    """At most `evaluate.probes` of the questions, with their replies.

    A model (`evaluate.unsure`) is asked by `request`; what it says is kept in `out`/unsure.jsonl.
    """
    total, most = len(questions), settings.probes
    if total > most:
        drawn = random.Random(stable_hash(seed, name)).sample(range(total), most)
        questions = [questions[at] for at in sorted(drawn)]
    if settings.unsure:
        replies, unsure = _model_replies(name, questions, settings, out, request, seed)
    else:
        fixed = fixed_replies(name)
        replies = [
            fixed[int(stable_hash(seed, name, q.id)[:8], 16) % len(fixed)] for q in questions
        ]
        unsure = f"{len(fixed)} fixed replies ({FIXED_VERSION})"
    probes = [Probe(*pair) for pair in zip(questions, replies, strict=True)]
    origin = f"{file.name}: {len(probes):,} of {total:,}, SHA-256 {sha256_file(file)[:16]}"
    return Probes(name, intent, may_end, probes, unsure, origin)


def fixed_replies(name: str) -> list[str]:
    """The replies that come with the package, for `role adherence` or `intent adherence`."""
    import yaml

    text = Path(__file__).with_name(FIXED).read_text(encoding="utf-8")
    replies: dict[str, list[str]] = yaml.safe_load(text)
    return replies[name.partition(" ")[0]]


def _model_replies(
    name: str, questions: Sequence[Question], settings: Evaluate, out: Path, request: str, seed: int
) -> tuple[list[str], str]:
    assert settings.unsure
    model = open_assistant(settings.unsure, settings)
    places = {
        q.id: Place(f"reply to {name} {q.id}", None, (_asked(request, q.text),)) for q in questions
    }
    turns = sample(model, places.values(), out / "unsure.jsonl", seed=seed)
    replies = [THOUGHT.sub("", turns[places[q.id].id].text, count=1).strip() for q in questions]
    if empty := sum(not reply for reply in replies):
        raise UserError(
            f"evaluate.unsure: {settings.unsure} wrote nothing in {empty:,} of {len(replies):,} "
            "replies; name another model, or leave it out for the fixed ones"
        )
    return replies, settings.unsure.partition("@http")[0]


def _asked(request: str, question: str) -> Message:
    return {"role": "user", "content": f"{request}\n\nThe question:\n{quoted(question)}"}


def quoted(text: str) -> str:
    """A text as data in a prompt: with a bar before every line, which nothing in it can close."""
    return "\n".join(f"| {line}" for line in text.splitlines()) or "|"


# ---- files of questions ----------------------------------------------------------------------

CHOICES_FORM = (
    '{"question": {"stem": "...", "choices": [{"label": "A", "text": "..."}, ...]}}, or '
    '{"question": "...", "choices": {"label": ["A", ...], "text": ["...", ...]}}'
)
OPEN_FORM = '{"question": "..."}'


def read_choices(path: Path) -> list[Question]:
    """Multiple-choice questions in CommonsenseQA's form: that of its own files, or the Hub's."""
    return _read(path, _choice_question, CHOICES_FORM)


def read_open(path: Path) -> list[Question]:
    """Open questions, one a line; what else stands there (answers) is not looked at."""
    return _read(path, _open_question, OPEN_FORM)


def _read(path: Path, parse: Any, form: str) -> list[Question]:
    questions: dict[str, Question] = {}
    problems: list[str] = []
    for number, row in read_lines(path):
        found = parse(row) if isinstance(row, dict) else None
        if found is None:
            problems.append(f"{path}:{number}: is no such question; a row is {form}")
        else:
            questions.setdefault(found.id, found)
    if problems:
        raise Problems(problems)
    if not questions:
        raise UserError(f"{path}: is empty; it needs a question a line: {form}")
    return list(questions.values())


def _open_question(row: Record) -> Question | None:
    text = _text(row.get("question"))
    return Question(stable_hash(text)[:16], text) if text else None


def _choice_question(row: Record) -> Question | None:
    question = row.get("question")
    if isinstance(question, dict):
        stem, pairs = _text(question.get("stem")), _list(question.get("choices"))
        texts = [one.get("text") for one in pairs if isinstance(one, dict)]
    else:
        choices = row.get("choices")
        stem = _text(question)
        texts = _list(choices.get("text")) if isinstance(choices, dict) else []
    named = list(_distinct(map(_text, texts)))
    if not stem or len(named) < 2 or not all(named):
        return None
    asked = f"{stem} It is one of these: {', '.join(named[:-1])} or {named[-1]}."
    return Question(stable_hash(stem, named)[:16], asked, tuple(named))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _distinct(texts: Iterable[str]) -> Iterator[str]:
    """Texts without those that have the same words as one before."""
    seen: set[Any] = set()
    for text in texts:
        spoken = tuple(metrics.words(text)) or text
        if spoken not in seen:
            seen.add(spoken)
            yield text
