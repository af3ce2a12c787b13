"""The report from files to files: its schema, what it compares, and inputs that are hardly any."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from userlm_synth.errors import UserError
from userlm_synth.recipe import Report
from userlm_synth.reporting import Inputs, make_report, write_report
from userlm_synth.resources import data_folder

Record = dict[str, Any]
SUBJECTS = ["bike", "chain", "soup", "bread", "garden", "router", "cat", "lamp", "piano", "visa"]
USAGE = {"prompt_tokens": 5, "completion_tokens": 2}
VERBS = ["fix", "clean", "choose", "cook", "tune", "paint", "carry", "sell", "store", "move"]
STARTS = ["how do i", "can you help me", "what is the best way to", "i want to", "please tell me"]


def sentence(rng: random.Random) -> str:
    subjects, verbs = (rng.sample(words, 3) for words in (SUBJECTS, VERBS))
    parts = [f"{verb} my {subject}" for verb, subject in zip(verbs, subjects, strict=True)]
    return f"{rng.choice(STARTS)} {' and '.join(parts[: rng.randint(1, 3)])}"


def person(at: int, rng: random.Random) -> Record:
    messages = []
    for _ in range(rng.randint(1, 4)):
        text = sentence(rng) + rng.choice(["", "?", " thanks"])
        messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": f"That depends on the {rng.choice(SUBJECTS)}."},
        ]
    return {
        "id": f"p{at}", "source": "people", "user_id": None, "language": "en", "intent": None,
        "persona": None, "messages": messages, "metadata": {},
    }  # fmt: skip


def machine(at: int, rng: random.Random, mark: str = "Dear assistant, ") -> Record:
    made = person(at, rng)
    for message in made["messages"][::2]:
        message["content"] = f"{mark}{message['content']}."
    return {
        **made, "id": f"m{at}", "source": "userlm_synth", "intent": f"to {VERBS[at % 5]} a thing",
        "intent_id": f"i{at % 5}", "seed": at,
        "stop_reason": "user_ended" if at % 3 else "max_turns",
        "user_model": "hf:toy@abc", "assistant_model": "scripted:replies",
        "guardrails": {"too_long": 1}, "end_probabilities": [0.1, None, 0.75],
        "usage": {"user": USAGE, "assistant": USAGE},
        "recipe_hash": "f00",
    }  # fmt: skip


def people(count: int, seed: int = 1) -> list[Record]:
    rng = random.Random(seed)
    return [person(at, rng) for at in range(count)]


def machines(count: int, seed: int = 2, **options: str) -> list[Record]:
    rng = random.Random(seed)
    return [machine(at, rng, **options) for at in range(count)]


def said(*texts: str, id: str = "x") -> Record:
    return {"id": id, "messages": [{"role": "user", "content": text} for text in texts]}


def written(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


SCHEMA = jsonschema.Draft202012Validator(
    json.loads((data_folder("schemas") / "report.schema.json").read_text())
)


def problems(report: Record) -> list[str]:
    """What is wrong by the schema, down to the innermost place."""

    def inner(error: Any) -> list[str]:
        below = [one for one in error.context or () if one.validator_value != "null"]
        if not below:
            return [f"{error.json_path}: {error.message[:150]}"]
        return [line for one in below for line in inner(one)]

    return [line for error in SCHEMA.iter_errors(report) for line in inner(error)]


def made(where: Path | str, reference: Path | None = None, **more: Any) -> Record:
    """A report that its schema allows, made without a single warning."""
    settings = Report(sample=more.pop("sample", 60))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = make_report(Inputs(where, reference, **more), settings, title="Toy", seed=3)
    assert problems(report) == []
    json.dumps(report, allow_nan=False)
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's dialogues with what lies beside them, people, and what the user model learnt from."""
    folder = tmp_path_factory.mktemp("report")
    run = folder / "run" / "dialogues"
    run.mkdir(parents=True)
    dialogues = machines(90)
    written(run / "part-00000.jsonl", dialogues[:50])
    written(run / "part-00001.jsonl", dialogues[50:])
    reject = dialogues[0] | {"id": "r0", "reason": "too_short"}
    written(run / "rejected.jsonl", [reject])
    sides = {"user": 0.5, "assistant": 0.25}
    (run / "bill.json").write_text(json.dumps({"spent": sides, "under_way": sides}))
    written(folder / "people.jsonl", people(150))
    written(folder / "train.jsonl", [*people(40, 5), *people(3, 1)])
    written(folder / "intents.jsonl", [{"id": f"i{at}", "intent": "x"} for at in range(9)])
    written(folder / "others.jsonl", machines(80, 9, mark="HELLO!!! "))
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Record:
    return made(
        folder / "run",
        folder / "people.jsonl",
        training=folder / "train.jsonl",
        intents=folder / "intents.jsonl",
    )


def test_every_record_is_counted_and_equal_numbers_are_compared(report: Record) -> None:
    one = report["sets"][0]
    assert one["available"] == one["shape"]["dialogues"] == 90
    assert one["shape"]["rejected"]["by_reason"] == {"too_short": 1}
    assert one["shape"]["cost"] == {"user": 1.0, "assistant": 0.5, "total": 1.5}
    assert one["shape"]["intents"]["unused_first"] == ["i5", "i6", "i7", "i8"]
    assert report["reference"]["available"] == 150
    assert report["training"] == {"name": "train.jsonl", "available": 43}
    assert report["sampling"]["n"] == 60
    sizes = {figure["n"] for figure in one["figures"].values() if figure["kind"] != "none"}
    assert sizes == {60}


def test_every_definition_has_its_figure_and_every_value_lies_in_its_interval(
    report: Record,
) -> None:
    figures = report["sets"][0]["figures"]
    assert [one["key"] for one in report["definitions"]] == list(figures)
    measured = [one for one in figures.values() if one["kind"] != "none"]
    assert len(measured) >= 20
    for figure in measured:
        for side in filter(None, (figure["made"], figure.get("people"), figure.get("floor"))):
            assert side["low"] <= side["value"] <= side["high"]


def test_machines_differ_from_people_where_they_do(report: Record) -> None:
    figures = report["sets"][0]["figures"]
    assert figures["starts_with_capital"]["beyond_chance"] is True
    assert figures["classifier"]["beyond_chance"] is True
    assert figures["classifier"]["made"]["value"] > 90
    assert figures["user_turns"]["beyond_chance"] is False


def test_people_beside_people_are_within_chance(folder: Path) -> None:
    written(folder / "more.jsonl", people(90, 77))
    figures = made(folder / "more.jsonl", folder / "people.jsonl")["sets"][0]["figures"]
    beyond = [key for key, one in figures.items() if one.get("beyond_chance")]
    assert len(beyond) <= 4, beyond  # of some 25, each one time in twenty, and not independent


def test_what_is_shown_is_in_the_report(report: Record) -> None:
    examples = report["sets"][0]["examples"]
    assert len(examples["random"]) == 20
    assert len(examples["least_natural"]) == 10
    scores = [one["score"] for one in examples["least_natural"]]
    assert scores == sorted(scores)
    pairs = report["sets"][0]["near_duplicates"]["pairs"]
    assert [[one["id"] for one in pair] for pair in examples["nearest"]] == [
        pair["ids"] for pair in pairs
    ]


def test_two_sets_are_of_one_size_and_their_difference_is_the_second_minus_the_first(
    folder: Path,
) -> None:
    report = made(folder / "run", folder / "people.jsonl", compare=folder / "others.jsonl")
    first, second = (one["figures"] for one in report["sets"])
    assert {one["n"] for side in (first, second) for one in side.values() if "n" in one} == {60}
    found = report["compare"]["figures"]
    for key, one in found.items():
        gap = second[key]["made"]["value"] - first[key]["made"]["value"]
        assert one["difference"]["value"] == pytest.approx(gap, abs=2e-6)
        assert one["difference"]["low"] <= one["difference"]["value"] <= one["difference"]["high"]
    assert found["has_exclamation"]["beyond_chance"] is True
    assert found["starts_with_capital"]["beyond_chance"] is False
    assert "Zou" in report["sampling"]["text"]


def test_a_set_beside_itself_has_no_difference(folder: Path) -> None:
    report = made(folder / "others.jsonl", compare=folder / "others.jsonl")
    for one in report["compare"]["figures"].values():
        assert one["difference"]["value"] == 0
        assert one["beyond_chance"] is False


def test_the_same_seed_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    inputs, few = Inputs(folder / "others.jsonl", folder / "people.jsonl"), Report(sample=20)
    for out in ("a", "b"):
        write_report(inputs, few, tmp_path / out, title="Toy", seed=1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert {path.name for path in files} >= {"report.json", "index.html"}
    assert any(path.suffix == ".png" for path in files)
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    other = made(folder / "others.jsonl", sample=20)  # of seed 3
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    drawn = [
        [one["id"] for one in each["sets"][0]["examples"]["random"]] for each in (report, other)
    ]
    assert drawn[0] != drawn[1]


def test_a_report_that_cannot_be_drawn_leaves_the_former_one(folder: Path, tmp_path: Path) -> None:
    inputs = Inputs(folder / "others.jsonl")
    write_report(inputs, Report(sample=40), tmp_path, title="Toy")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    def broken(report: Record) -> str:
        raise RuntimeError(report["title"])

    with pytest.raises(RuntimeError):
        write_report(inputs, Report(sample=40), tmp_path, title="New", page=broken)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_out_that_is_a_file_is_a_user_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserError, match="out: is a file"):
        write_report(Inputs(folder / "others.jsonl"), Report(), tmp_path / "out", title="Toy")


def test_the_schema_refuses_what_is_no_report(report: Record) -> None:
    for break_it in (
        lambda one: one.update(version=1),
        lambda one: one.update(more=1),
        lambda one: one["sets"][0].pop("figures"),
        lambda one: one["sets"][0]["figures"]["user_turns"].pop("made"),
        lambda one: one["sets"][0]["shape"].update(dialogues=-1),
        lambda one: one["sets"][0]["examples"]["random"][0].pop("messages"),
    ):
        copy = json.loads(json.dumps(report))
        break_it(copy)
        assert problems(copy)


# ---- inputs that are hardly any ------------------------------------------------------------------


def whys(report: Record) -> dict[str, str]:
    figures = report["sets"][0]["figures"]
    return {key: one["why"] for key, one in figures.items() if one["kind"] == "none"}


def test_without_a_reference_it_says_what_it_cannot_say(folder: Path) -> None:
    report = made(folder / "run")
    assert report["reference"] is None
    assert any("No reference was given" in line for line in report["cannot_say"])
    assert any("No training conversations" in line for line in report["cannot_say"])
    figures = report["sets"][0]["figures"]
    assert figures["first_turn_diversity"]["made"]["value"] > 0
    assert figures["first_turn_diversity"]["people"] is None
    assert "reference" in whys(report)["classifier"]
    examples = report["sets"][0]["examples"]
    assert examples["least_natural"] == []
    assert "reference" in examples["least_natural_why"]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_reference_of_a_few_conversations_warns(folder: Path, tmp_path: Path, count: int) -> None:
    few = written(tmp_path / "few.jsonl", people(count, 4))
    report = made(folder / "run", few)
    said = " ".join(report["warnings"])
    if count < 4:
        assert f"The reference has {count} conversations, too few" in said
        assert report["sampling"]["n"] == 60
    else:
        assert "Only 2 conversations a side" in said
        assert "a larger reference" in said


def test_one_dialogue_has_a_shape_and_no_figures(folder: Path, tmp_path: Path) -> None:
    report = made(written(tmp_path / "one.jsonl", machines(1)), folder / "people.jsonl")
    assert report["sets"][0]["shape"]["dialogues"] == 1
    assert set(whys(report)) == {one["key"] for one in report["definitions"]}
    assert any("One dialogue" in line for line in report["warnings"])
    assert len(report["sets"][0]["examples"]["random"]) == 1


def test_identical_dialogues_are_all_repeats(folder: Path, tmp_path: Path) -> None:
    same = [machine(3, random.Random(0)) | {"id": f"m{at}"} for at in range(40)]
    report = made(written(tmp_path / "same.jsonl", same), folder / "people.jsonl")
    one = report["sets"][0]
    assert one["figures"]["duplicates"]["made"]["value"] == 100
    assert one["figures"]["first_turn_diversity"]["made"]["value"] == pytest.approx(0, abs=1e-3)
    assert one["near_duplicates"]["share"] == 100
    assert one["near_duplicates"]["pairs"] == []


@pytest.mark.parametrize(
    "texts",
    [
        ["\U0001f600", "\U0001f680\U0001f680", "\u2764\ufe0f"],
        ["สวัสดีครับ", "ขอบคุณครับ ช่วยได้ไหม"],
        ["你好, 我想修自行车", "谢谢你的帮助"],
        ["...", "?!", " - "],
        ["\u202ereversed", "a\u200bb", "x" * 5000],
    ],
    ids=["emoji", "thai", "chinese", "marks", "odd"],
)  # fmt: skip
@pytest.mark.parametrize("beside", [True, False])
def test_any_writing_makes_a_report(
    folder: Path, tmp_path: Path, texts: list[str], beside: bool
) -> None:
    rng = random.Random(0)
    records = [said(*rng.choices(texts, k=2), id=f"e{at}") for at in range(30)]
    path = written(tmp_path / "odd.jsonl", records)
    report = made(path, folder / "people.jsonl" if beside else None, sample=25)
    assert report["sets"][0]["available"] == 30
    assert all(why for why in whys(report).values())


def test_odd_writing_on_both_sides_makes_a_report(tmp_path: Path) -> None:
    records = [said("\U0001f600" * (at % 3 + 1), id=f"e{at}") for at in range(60)]
    path = written(tmp_path / "emoji.jsonl", records)
    report = made(path, path, sample=25)
    assert report["sets"][0]["figures"]["has_emoji"]["made"]["value"] == 100


def test_a_table_without_messages_is_one_user_error_that_names_its_columns(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", [{"question": "?", "score": at} for at in range(4)])
    with pytest.raises(UserError, match="score") as caught:
        made(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_a_user_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"empty\.jsonl: is empty"):
        made(path)


def test_rows_without_a_user_are_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    answer = {"id": "a", "messages": [{"role": "assistant", "content": "Hello"}]}
    report = made(written(tmp_path / "some.jsonl", [answer, *machines(9)]))
    assert report["sets"][0]["available"] == 9
    assert report["sets"][0]["shape"]["unreadable"]["count"] == 1
    assert any("row 1, has no turn of a user" in line for line in report["warnings"])
    with pytest.raises(UserError, match="no dialogue to report on; row 1"):
        made(written(tmp_path / "none.jsonl", [answer]))


def test_a_missing_file_is_a_user_error(folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    for options in ({"reference": missing}, {"training": missing}, {"intents": missing}):
        with pytest.raises(UserError, match=r"missing\.jsonl"):
            made(folder / "run", **options)  # type: ignore[arg-type]
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match=r"missing\.jsonl"):
        made(missing)
