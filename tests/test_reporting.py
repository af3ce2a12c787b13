"""The report: equal sizes, chance level, schema, and a page that hostile text cannot break."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from browser import HOSTILE, OVERRIDE, Page, look

from userlm_synth.errors import UserError
from userlm_synth.pages import number, signed
from userlm_synth.reporting import make_report, render_page, write_report
from userlm_synth.reporting.charts import columns, strip
from userlm_synth.resources import data_folder

Record = dict[str, Any]
PHRASE = "how do i fix my old bike chain when it rains please and what oil would you take now"
WORDS = PHRASE.split()


def conversation(at: int, rng: random.Random, source: str = "people") -> Record:
    messages = []
    for _ in range(rng.randint(1, 4)):
        text = " ".join(rng.choices(WORDS, k=rng.randint(3, 14)))
        messages += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": f"Answer to: {text}"},
        ]
    return {
        "id": f"{source}-{at}",
        "source": source,
        "user_id": None,
        "language": "en",
        "intent": f"fix bike {at % 5}",
        "persona": None,
        "messages": messages,
        "metadata": {},
    }


def people(count: int, seed: int = 1) -> list[Record]:
    rng = random.Random(seed)
    return [conversation(at, rng) for at in range(count)]


def machines(count: int, seed: int = 2) -> list[Record]:
    rng = random.Random(seed)
    return [
        conversation(at, rng, "generated")
        | {
            "intent_id": f"i{at % 5}",
            "seed": at,
            "stop_reason": "user_ended" if at % 3 else "max_turns",
            "user_model": "hf:toy@abc",
            "assistant_model": "scripted:replies",
            "guardrails": {"too_long": 1},
            "end_probabilities": [0.1, None, 0.75],
            "usage": {"user": {"prompt_tokens": 5, "completion_tokens": 2}, "assistant": {}},
            "recipe_hash": "f00",
        }
        for at in range(count)
    ]


def reject(dialogue: Record) -> Record:
    return dialogue | {"messages": [], "reason": "too_short"}


def figure(report: Record, key: str) -> Record:
    found: Record = next(row for row in report["figures"] if row["key"] == key)["measured"]
    return found


@pytest.fixture(scope="module")
def report() -> Record:
    made = machines(40)
    return make_report(made, [reject(made[0])], people(100), title="Bikes", seed=3)


def check(report: Record) -> None:
    schema = json.loads((data_folder("schemas") / "report.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(report)))


def test_report_satisfies_its_schema(report: Record) -> None:
    check(report)


@pytest.mark.parametrize(("made", "beside"), [(0, 1), (1, 1), (1, 9), (2, 4), (9, 3), (9, 4)])
def test_small_reports_satisfy_it_too_and_warn(made: int, beside: int) -> None:
    dialogues = machines(made)
    small = make_report(dialogues, [reject(machines(1)[0])], people(beside), title="Few")
    check(small)
    assert small["warnings"]
    assert "Few" in render_page(small, dialogues)


def test_nothing_to_report_on_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no dialogues"):
        make_report([], [], people(4), title="")
    with pytest.raises(UserError, match="reference has no conversations"):
        make_report(machines(4), [], [], title="")
    with pytest.raises(UserError, match="people-0: no user turn"):
        make_report(machines(1), [], [people(1)[0] | {"messages": []}], title="")


def test_both_sides_are_of_equal_size_and_the_floor_too(report: Record) -> None:
    sampling = report["sampling"]
    assert (sampling["n"], sampling["reference_halves"], sampling["seed"]) == (40, "40 + 40", 3)
    fewer = make_report(machines(40), [], people(30), title="")
    assert (fewer["sampling"]["n"], fewer["sampling"]["reference_halves"]) == (15, "15 + 15")


def test_every_figure_lies_in_its_interval(report: Record) -> None:
    assert len(report["figures"]) == 11
    for row in report["figures"]:
        for side in ("generated", "reference"):
            part = row["measured"][side]
            assert part["low"] <= part["value"] <= part["high"], row["key"]


def test_people_against_people_stay_within_chance_and_machines_do_not() -> None:
    same = [
        record | {"intent_id": "i", "stop_reason": "user_ended"} for record in people(80, seed=7)
    ]
    within = make_report(same, [], people(160, seed=8), title="")
    beyond = [row["key"] for row in within["figures"] if row["measured"]["beyond_chance"]]
    assert len(beyond) <= 2  # one in twenty by luck, and the figures hang together
    stiff = [
        record
        | {
            "messages": [
                {"role": "user", "content": "Please fix the bike."},
                *record["messages"][1:],
            ]
        }
        for record in same
    ]
    report = make_report(stiff, [], people(160, seed=8), title="")
    diversity = figure(report, "first_turn_diversity")
    assert diversity["beyond_chance"]
    assert diversity["generated"]["value"] == pytest.approx(0, abs=1e-4)
    assert figure(report, "starts_with_capital")["beyond_chance"]


def test_copies_of_the_reference_are_found() -> None:
    rng = random.Random(0)
    reference = people(40)
    for record in reference:
        record["messages"][0]["content"] = " ".join(f"w{rng.random()}" for _ in range(9))
    made = machines(20)
    for dialogue, source in zip(made, reference, strict=False):
        dialogue["messages"] = source["messages"]
    leak = make_report(made, [], reference, title="")["leakage"]
    assert leak["copied_share"] == 100
    assert leak["dialogues_with_a_copy"] == 20
    twins = make_report([*made, *made], [], reference, title="")
    assert twins["leakage"]["repeated_dialogues"] == 40
    assert figure(twins, "duplicates")["generated"]["value"] > 0


def test_shape_counts_every_record(report: Record) -> None:
    shape = report["shape"]
    assert shape["rejected"] == {"total": 1, "by_reason": {"too_short": 1}}
    assert shape["stop_reasons"] == {"user_ended": 26, "max_turns": 14}
    assert sum(shape["user_turns"]["generated"]) == 40
    assert sum(shape["user_turns"]["reference"]) == 100
    assert shape["tokens"]["accepted"]["user"] == {"prompt_tokens": 200, "completion_tokens": 80}
    assert shape["guardrails"] == {"too_long": 40}
    assert shape["distinct_intents"] == 5
    assert shape["end_probability"]["last_user_turn"] == {"turns": 40, "mean": 0.75}
    assert shape["end_probability"]["earlier_user_turns"] == {"turns": 40, "mean": 0.1}
    assert report["note"]["reference_sources"] == {"people": 100}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(machines(12), [], people(30), tmp_path / name, title="T", seed=4)
    for file in ("report.json", "index.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["index.html", "report.json"]


def test_out_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(machines(2), [], people(4), tmp_path / "out", title="T")


def hostile_dialogues() -> list[Record]:
    dialogues = machines(8)
    first = dialogues[0]
    first |= {"id": HOSTILE, "intent": f'"{OVERRIDE}', "persona": HOSTILE, "user_model": HOSTILE}
    first |= {"stop_reason": f'">{HOSTILE}', "guardrails": {HOSTILE: 1}, "recipe_hash": HOSTILE}
    first["messages"][0]["content"] = OVERRIDE
    first["messages"][1]["content"] = "A" * 100_000
    dialogues[1]["messages"][0]["content"] = "bell \x07, nul \x00, half \ud800"
    return dialogues


def hostile_report(out: Path) -> str:
    reference = [record | {"source": HOSTILE} for record in people(16)]
    made = hostile_dialogues()
    write_report(made, [reject(made[0]) | {"reason": HOSTILE}], reference, out, title=OVERRIDE)
    return (out / "index.html").read_text("utf-8")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = Page(hostile_report(tmp_path))
    page.assert_inert()
    text = page.text
    assert OVERRIDE in text
    assert "A" * 100_000 in text
    assert "bell \u2407, nul \u2400, half ?" in text
    check(json.loads((tmp_path / "report.json").read_text("utf-8")))


def test_policy_allows_the_one_style_and_the_one_script_only(tmp_path: Path) -> None:
    page = Page(hostile_report(tmp_path))
    page.assert_policy(("style", "script"))
    assert page.targets == ["report.json"]


def test_page_shows_twenty_dialogues_drawn_by_seed(report: Record) -> None:
    made = machines(40)
    page = Page(render_page(report, made, seed=1))
    assert page.names.count("details") == 20
    assert render_page(report, made, seed=1) != render_page(report, made, seed=2)


def test_numbers_for_readers() -> None:
    assert [number(value) for value in (None, 1234, 0.0, 2.404, 93.04, 1234.5)] == [
        "\u2013", "1,234", "0.0", "2.40", "93.0", "1,234.5",
    ]  # fmt: skip
    assert [signed(value) for value in (-0.344, 0.0, 12.0)] == ["\u22120.34", "+0.0", "+12.0"]


def test_charts_stay_inside_their_frame() -> None:
    chart = columns(["1", "2"], [1, 3], [0, 0])
    assert [mark["label"] for mark in chart["ticks"]] == [0, 20, 40, 60, 80]
    heights = [bar["height"] for group in chart["groups"] for bar in group["bars"]]
    assert heights == pytest.approx([170 * 25 / 80, 0, 170 * 75 / 80, 0], abs=0.01)
    same = {"value": 1.0, "low": 1.0, "high": 1.0}
    flat = strip({"generated": same, "reference": same, "chance": {"p95": 0.0}})
    assert flat["rows"][0]["value"] == flat["band"]["x"] == 8


@pytest.mark.slow
def test_page_fits_its_window_and_filters_in_a_browser(tmp_path: Path) -> None:
    hostile_report(tmp_path)
    after = """
      const box = inner.getElementById("intent");
      box.value = "ONERROR";
      box.dispatchEvent(new Event("input", {bubbles: true}));
      found.open = inner.querySelectorAll("details[open]").length;
      found.shown = inner.querySelectorAll("details:not([hidden])").length;
      found.images = inner.images.length;
    """
    found, logged = look(tmp_path, 'inner.getElementById("all").click();', after)
    assert found == {"320": 0, "380": 0, "1440": 0, "open": 8, "shown": 1, "images": 0}
    assert "CONSOLE" not in logged, logged
