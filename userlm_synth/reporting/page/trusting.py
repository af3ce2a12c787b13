"""What is known of copies, echoes, insults, personal data and broken records, for the template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from userlm_synth.pages import number
from userlm_synth.records import Record
from userlm_synth.reporting.page.details import MOST, Row, heads, plain
from userlm_synth.reporting.page.parts import EMPTY, View, percent, short_value
from userlm_synth.reporting.page.tables import cell, tag

PLACES = 5  # of what was found

Make = Callable[[Record], View]


def trust(report: Record) -> list[View]:
    """What stands under the figures of trust: a block for each set in every part."""
    found: list[tuple[str, str, str, Make]] = [
        (
            "leakage",
            "Copies of the training conversations",
            "Runs of words of the user's turns that stand in the training conversations too, over "
            "all dialogues; beside them the same for people who were not trained on anything.",
            _leakage,
        ),
        (
            "echo",
            "Echoes of the intent",
            "A user who reads the intent aloud tells everything at once, as no person does.",
            _echo,
        ),
        (
            "toxicity",
            "Insults and threats",
            "Messages with a word of the list; it finds words and not what they mean, so read it "
            "beside people's.",
            _toxicity,
        ),
        (
            "privacy",
            "Personal data and secrets",
            "What looks like an address, a number or a key. Nothing of it is shown here.",
            _privacy,
        ),
        ("schema", "Form of the records", "Checked against the schema and its rules.", _schema),
    ]
    return [
        {
            "title": title,
            "about": about,
            "sets": [
                {**EMPTY, **head, **_made(one["trust"].get(key), make)}
                for head, one in zip(heads(report), report["sets"], strict=True)
            ],
        }
        for key, title, about, make in found
    ]


def _made(part: Record | None, make: Make) -> View:
    if part is None:
        return {"why": "Not looked at."}
    if part.get("kind") == "none":
        return {"why": f"Not measured: {part['why']}."}
    return make(part)


def _compared(title: str, found: Record) -> View:
    """A share over all dialogues beside people's: a line of a small table."""
    return {
        "title": title,
        "made": cell("Set", found["made"]),
        "people": cell("People", found["people"]),
        "tag": tag(found["beyond_chance"]),
    }


# ---- the parts -------------------------------------------------------------------------------


def _leakage(part: Record) -> View:
    made, people = part["made"], part["people"]
    copies = percent(made["dialogues_with_a_copy"], made["dialogues"])
    rows: list[Row] = [("Dialogues with a copy", plain(copies))]
    if training := part["training"]:
        text = f"{number(training['conversations'])} training conversations"
        rows.append(("Looked for in", plain(text)))
    if people:
        longest = people["longest"]
        said = f"{number(longest['words'])} words" if longest else "none"
        rows.append(("Longest run of people", plain(said)))
    found: View = {
        "compared": [_compared(f"Runs of {part['words']} words, copied", part["share"])],
        "rows": rows,
    }
    if longest := made["longest"]:
        shown = len(str(longest["text"]).split())
        more = f"; the first {number(shown)}" if longest["words"] > shown else ""
        found["quoted"] = (
            f"The longest run copied, {number(longest['words'])} words, in dialogue "
            f"{longest['id']}{more}:"
        )
        found["quote"] = longest["text"]
    return found


def _echo(part: Record) -> View:
    first = part["first_turn"]
    found: View = {
        "compared": [
            _compared(f"User turns with {part['words']} of its words in a row", part["runs"]),
            _compared("User turns that are the intent", part["equal"]),
            _compared("Words of the first turn that are the intent's", first["of_turn"]),
            _compared("Words of the intent that the first turn has", first["of_intent"]),
        ]
    }
    if part["examples"]:
        example = part["examples"][0]
        found["quoted"] = f"For example, in dialogue {example['id']}:"
        found["quote"] = example["text"]
    return found


def _toxicity(part: Record) -> View:
    sides = ("user", "assistant")
    rows = [(f"By kind, {side}", plain(_kinds(part[side], part["kinds"]))) for side in sides]
    return {
        "compared": [_compared(f"Messages of the {side}", part[side]["any"]) for side in sides],
        "rows": [*(row for row in rows if row[1][0]["text"]), *_places(part["places"])],
        "note": f"{number(part['words'])} English words and phrases are looked for.",
    }


def _kinds(shares: Record, kinds: Sequence[str]) -> str:
    """The kinds that occur, the most frequent first."""
    found = {kind: shares[kind]["made"]["value"] for kind in kinds if shares[kind]["having"]}
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} {short_value(value)} %" for kind, value in ordered)


def _privacy(part: Record) -> View:
    kinds = [
        f"{kind.replace('_', ' ')} {number(one['count'])} (in {number(one['dialogues'])} dialogues)"
        for kind, one in part["kinds"].items()
    ]
    rows: list[Row] = [("Found", plain(", ".join(kinds[:MOST]) or "nothing"))]
    compared = [_compared("Dialogues with any", part["share"])]
    return {"compared": compared, "rows": [*rows, *_places(part["places"])]}


def _schema(part: Record) -> View:
    checked = sum(part["checked"].values())
    rows: list[Row] = [("Records that break it", plain(percent(part["count"], checked)))]
    return {"rows": [*rows, *_places(part["places"])]}


def _places(places: Sequence[Record]) -> Iterator[Row]:
    """The first places of something, by dialogue and message."""
    if places:
        yield "First places", [line for one in places[:PLACES] for line in plain(_place(one))]


def _place(one: Record) -> str:
    """Where something was found, and what."""
    where = str(one["id"])
    if one.get("message") is not None:
        where += f", message {one['message'] + 1} ({one.get('role')})"
    if one.get("field"):
        where += f", {one['field']}"
    kinds = one.get("kinds") or one.get("kind") or one.get("problem")
    said = ", ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)
    return f"{where}: {said.replace('_', ' ') if one.get('kind') else said}"
