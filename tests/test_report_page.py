"""The report's page: all of report.json in it, small whatever the texts are, hostile text inert."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from browser import HOSTILE, OVERRIDE, Page, look
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import FIGURES, dialogue, report

from userlm_synth.reporting.page import charts, tables
from userlm_synth.reporting.page.page import render_page
from userlm_synth.reporting.page.shown import cost, fitting, level, short, shown, shown_dialogue
from userlm_synth.resources import data_folder

Record = dict[str, Any]
LARGEST = 3_000_000  # bytes of a page
CASES = {
    "one": {},
    "two": {"sets": 2},
    "alone": {"reference": False, "training": False},
    "two alone": {"sets": 2, "reference": False},
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[Record, Page]:
    made = report(**CASES[request.param])
    return made, Page(render_page(made))


def test_the_toy_reports_have_the_form_of_real_ones(case: tuple[Record, Page]) -> None:
    schema = json.loads((data_folder("schemas") / "report.schema.json").read_text("utf-8"))
    plain = json.loads(json.dumps(case[0], allow_nan=False))
    jsonschema.Draft202012Validator(schema).validate(plain)


# ---- what is on the page ---------------------------------------------------------------------


def test_every_figure_and_definition_is_on_the_page(case: tuple[Record, Page]) -> None:
    made, page = case
    for one in made["definitions"]:
        assert one["name"] in page.text
        assert one["description"] in page.text
        assert one["source"] in page.text
    for one in made["sets"]:
        measured = [found for found in one["figures"].values() if found["kind"] != "none"]
        for figure in measured:
            value = figure["made"]["value"]
            assert tables.fixed(value, tables.decimals(value)) in page.text


def test_the_same_report_gives_the_same_page_and_stays_as_it_is() -> None:
    made = report(sets=2)
    before = copy.deepcopy(made)
    assert render_page(made) == render_page(copy.deepcopy(made))
    assert made == before


def test_what_was_not_measured_says_why(case: tuple[Record, Page]) -> None:
    made, page = case
    assert "Not measured: Detector: human (no detector was named)." in page.text
    for line in [*made["cannot_say"], *made["warnings"]]:
        assert line in page.text
    assert ("needs a reference" in page.text) is (made["reference"] is None)


def test_a_difference_beyond_chance_is_said_in_words() -> None:
    page = Page(render_page(report()))
    told = [row for row in FIGURES if row[5] != "none"]
    assert f"{len(told)} figures" in page.text
    row = tables.groups(report())[0]["tables"][0]["rows"][0]
    values = [entry["value"] for entry in row["cells"]]
    assert values == ["91.2", "93.4", "\u22122.20", "\u00b10.35"]
    assert row["cells"][2]["tag"] == "beyond chance"


def test_without_a_reference_nothing_stands_beside_the_set() -> None:
    alone = report(reference=False)
    for group in tables.groups(alone):
        for table in group["tables"]:
            assert table["heads"] == ["Generated"]
            assert table["kind"] == "sides"
    page = Page(render_page(alone))
    assert "beyond chance" not in page.text.replace("called beyond chance", "")
    assert not [found for tag, found in page.tags if "people" in (found.get("class") or "").split()]


def test_two_sets_stand_side_by_side_with_their_difference() -> None:
    both = report(sets=2)
    table = tables.groups(both)[0]["tables"][0]
    names = ["dialogues/run-a", "dialogues/run-b", "People", "Second \u2212 first"]
    assert table["heads"] == names
    assert [row["style"] for row in table["rows"][0]["strip"]["rows"]] == [
        "made",
        "second",
        "people",
    ]
    page = Page(render_page(both))
    assert [found["id"] for tag, found in page.tags if tag == "select"] == ["stop", "set"]


def test_sets_of_one_name_are_told_apart() -> None:
    both = report(sets=2)
    for one in both["sets"]:
        one["name"] = "run"
    assert tables.names_of(both) == ["run (1)", "run (2)"]


def test_the_dialogues_are_there_with_score_and_similarity() -> None:
    made = report()
    page = Page(render_page(made))
    entries = [found for tag, found in page.tags if found.get("class") == "dialogue"]
    assert len(entries) == 20 + 10 + 10
    assert "1.3 % likely to be a person's" in page.text
    assert "97 % alike" in page.text
    for one in made["sets"][0]["examples"]["random"]:
        assert one["messages"][-1]["content"] in page.text


def test_no_dialogues_to_rank_say_why() -> None:
    made = report(reference=False)
    made["sets"][0]["examples"]["least_natural_why"] = "needs a reference: conversations of people"
    assert (
        "There are none: needs a reference: conversations of people."
        in Page(render_page(made)).text
    )


def test_parts_that_could_not_be_made_say_why() -> None:
    made = report()
    why = {"kind": "none", "why": "only emoji here"}
    one = made["sets"][0]
    one |= {"topics": why, "per_intent": why, "repetitions": why, "openings": []}
    one["trust"] |= {"leakage": why, "echo": why}
    one["near_duplicates"]["pairs"] = []
    one["examples"] |= {"random": [], "nearest": [], "least_natural": []}
    text = Page(render_page(made)).text
    assert text.count("only emoji here") == 4
    assert "There is no dialogue." in text
    assert "No opening occurs twice." in text


# ---- small, whatever the texts are -----------------------------------------------------------


def large(text: str, messages: int = 12) -> Record:
    """A report whose every dialogue has so many messages of this text, and whose names are it."""
    made = report(sets=2)
    for at, one in enumerate(made["sets"]):
        one["name"] = f"{at}{text}"
        one["shape"]["stop_reasons"] = {f"{text}{at}": at for at in range(300)}
        one["shape"]["models"]["user"] = {f"{text}{at}": at for at in range(300)}
        one["trust"]["leakage"]["made"]["longest"]["text"] = text
        one["examples"] = {
            key: [fill(text, messages)] * 20
            if key != "nearest"
            else [[fill(text, messages)] * 2] * 10
            for key in ("random", "least_natural", "nearest")
        }
    made |= {"title": text, "cannot_say": [text] * 9, "warnings": [text, f"{text}2"]}
    return made


def fill(text: str, messages: int) -> Record:
    sides = ("user", "assistant")
    said = [{"role": sides[at % 2], "content": text} for at in range(messages)]
    names = ("id", "intent", "intent_id", "persona", "user_model", "assistant_model", "stop_reason")
    return {"messages": said, **dict.fromkeys(names, text)}


@pytest.mark.parametrize(
    "text", ["<" * 9000, "\u4f60\u597d" * 3000, "word " * 1500, "\x07" * 9000, "x"]
)
def test_page_is_at_most_3_mb(text: str) -> None:
    page = render_page(large(text, 12 if len(text) > 1 else 600))
    assert len(page.encode()) < LARGEST


def test_what_is_cut_says_so() -> None:
    text = Page(render_page(large("word " * 3000))).text
    assert re.search(r"[\d,]{5,} more characters are in the data\.", text)
    assert "more messages are in the data." in Page(render_page(large("x", 600))).text


@given(st.lists(st.integers(0, 1000)), st.integers(0, 5000))
def test_water_fills_up_to_the_budget_and_no_further(sizes: list[int], budget: int) -> None:
    most = level(sizes, budget)
    assert sum(min(size, most) for size in sizes) <= budget
    if any(size > most for size in sizes):
        assert sum(min(size, most + 1) for size in sizes) > budget


@given(st.text(max_size=300), st.integers(0, 400))
def test_the_longest_beginning_that_fits_is_kept(text: str, most: int) -> None:
    kept = fitting(text, most)
    assert text.startswith(kept)
    assert cost(kept) <= most
    assert len(kept) == len(text) or cost(text[: len(kept) + 1]) > most


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=50), min_size=1, max_size=4), max_size=5))
def test_only_the_longest_messages_lose_and_all_is_counted(texts: list[list[str]]) -> None:
    whole = [fill("", 0) | {"messages": [{"role": "user", "content": text} for text in some]}
             for some in texts]  # fmt: skip
    kept = [message for one in shown(whole, 60) for message in one["messages"]]
    flat = [text for some in texts for text in some]
    assert [len(one["content"]) + one.get("cut", 0) for one in kept] == [len(text) for text in flat]
    assert sum(cost(one["content"]) for one in kept) <= 60
    cut = [cost(text) for text, one in zip(flat, kept, strict=True) if "cut" in one]
    left = [cost(text) for text, one in zip(flat, kept, strict=True) if "cut" not in one]
    assert not cut or not left or min(cut) >= max(left)


def test_a_dialogue_is_shown_the_same_the_second_time() -> None:
    record = dialogue(3) | {"usage": {"user": {}}, "user_model": {"name": "lm", "revision": "1"}}
    record["messages"] = [{"role": "user", "content": "a" * 100}, *record["messages"]]
    once = shown_dialogue(record, 10)
    assert once["messages"][0] == {"role": "user", "content": "a" * 10, "cut": 90}
    assert once["user_model"] == "lm@1"
    assert "usage" not in once
    assert shown_dialogue(once) == once
    assert shown_dialogue({"messages": []})["intent"] is None


def test_a_short_text_is_itself() -> None:
    assert short("a < b") == "a < b"
    assert short("<<<<", 9) == "<<\u2026"


# ---- hostile text ----------------------------------------------------------------------------


def hostile(value: Any) -> Any:
    """The report with hostile text in every text that is not one of ours."""
    if isinstance(value, str):
        return OVERRIDE
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    return [hostile(item) for item in value] if isinstance(value, list) else value


def hostile_report() -> Record:
    made = report(sets=2)
    made |= {name: hostile(made[name]) for name in ("title", "warnings", "cannot_say", "training")}
    made["reference"] |= {"name": HOSTILE, "sources": {HOSTILE: 3}}
    for one in made["sets"]:
        one |= {name: hostile(one[name]) for name in ("name", "openings", "examples")}
        for key in ("stop_reasons", "guardrails", "languages", "sources", "recipes"):
            one["shape"][key] = {f'">{HOSTILE}': 3, "bell\x07": 1}
        one["shape"]["models"] = {side: {f'"{OVERRIDE}': 3} for side in ("user", "assistant")}
        one["trust"]["leakage"]["made"]["longest"] |= {"text": OVERRIDE, "id": HOSTILE}
        one["topics"]["clusters"][0] |= {
            "words": [HOSTILE],
            "example": {"id": "", "text": OVERRIDE},
        }
        one["per_intent"]["intents"][0]["intent"] = HOSTILE
        for message in one["examples"]["random"][0]["messages"]:
            message["role"] = "user"
    first = made["sets"][0]["examples"]["random"]
    first[0]["messages"][0]["content"] = "A" * 100_000
    first[1]["messages"][0]["content"] = "bell \x07, escape \x1b, half \ud800"
    first[2]["intent"] = "bake a cake"
    first[2]["stop_reason"] = "user_ended"
    return made


def test_hostile_text_stays_text() -> None:
    page = Page(render_page(hostile_report()))
    page.assert_inert()
    page.assert_policy(("style", "script"))
    assert OVERRIDE in page.text
    assert "A" * 100_000 in page.text
    assert "bell \u2407, escape \u241b, half ?" in page.text
    assert [target for target in page.targets if target[0] != "#"] == ["report.json"]


def test_each_id_is_there_once_and_every_link_leads_somewhere(case: tuple[Record, Page]) -> None:
    page = case[1]
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len({*ids})
    for target in page.targets:
        assert target == "report.json" or target[1:] in ids
    for _, found in page.tags:
        for name in (found.get("aria-labelledby") or "").split():
            assert name in ids


# ---- the charts ------------------------------------------------------------------------------


def test_columns_are_shares_and_stay_in_their_frame() -> None:
    chart = charts.columns(["1", "2"], {"made": [1, 3], "second": [0, 0], "people": [2, 2]})
    assert [mark["label"] for mark in chart["ticks"]] == [0, 20, 40, 60, 80]
    bars = [bar for group in chart["groups"] for bar in group["bars"]]
    heights = [bar["height"] for bar in bars]
    assert heights == pytest.approx([170 * s / 80 for s in (25, 0, 50, 75, 0, 50)], abs=0.01)
    for bar in bars:
        assert chart["left"] <= bar["x"] <= bar["x"] + bar["width"] <= chart["right"]
    edges = [(bar["x"], bar["x"] + bar["width"]) for bar in bars]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(edges))


def test_long_labels_of_columns_leave_each_other_room() -> None:
    few = charts.columns([str(at) for at in range(10)], {"made": [1] * 10})
    wide = charts.columns([f"0.{at}\u20131.0" for at in range(10)], {"made": [1] * 10})
    assert all(group["said"] for group in few["groups"])
    assert [group["said"] for group in wide["groups"][:4]] == [True, False, True, False]


def test_bars_after_the_first_ten_are_added_up() -> None:
    chart = charts.bars({"made": {f"r{at:02}": 100 - at for at in range(14)}, "second": {"z": 7}})
    labels = [row["label"] for row in chart["rows"]]
    assert labels == [*(f"r{at:02}" for at in range(10)), charts.OTHERS]
    assert [bar["count"] for bar in chart["rows"][-1]["bars"]] == [90 + 89 + 88 + 87, 7]
    assert max(bar["width"] for row in chart["rows"] for bar in row["bars"]) <= chart["width"]


def test_strip_holds_the_sides_and_the_band() -> None:
    one, other = ({"value": v, "low": v - 1, "high": v + 1} for v in (5.0, 9.0))
    drawn = charts.strip([("made", one), ("people", other)], (8.5, 9.5))
    first, second = drawn["rows"]
    assert (first["low"], second["high"]) == (8, 172)
    assert first["value"] < drawn["band"]["x"] < second["value"]
    same = {"value": 1.0, "low": 1.0, "high": 1.0}
    assert charts.strip([("made", same)], (1.0, 1.0))["rows"][0]["value"] == 8


def test_numbers_have_three_digits_and_a_true_minus() -> None:
    found = [
        tables.fixed(v, tables.decimals(v)) for v in (-2.2, 0.0, 0.0312, 93.04, -0.0001, 1234.5)
    ]
    assert found == ["\u22122.20", "0.0", "0.031", "93.0", "0.000", "1,234.5"]


# ---- in a browser ----------------------------------------------------------------------------

KEYS = """
  const box = inner.getElementById("intent"), all = inner.getElementById("all");
  const order = [...inner.querySelectorAll("input, select, button")].map((one) => one.id);
  found.order = order.join();
  box.focus();
  found.focused = inner.activeElement === box;
  const wait = (text) => {
    box.value = text;
    box.dispatchEvent(new Event("input", {bubbles: true}));
    return inner.querySelectorAll("details.dialogue:not([hidden])").length;
  };
  found.all = wait("");
  found.cake = wait("BAKE A");
  found.nothing = wait("no such intent");
  found.none = inner.querySelectorAll(".list + p:not([hidden])").length;
  wait("");
  const stop = inner.getElementById("stop");
  stop.selectedIndex = [...stop.options].findIndex((one) => one.textContent === "user ended");
  stop.dispatchEvent(new Event("input", {bubbles: true}));
  found.ended = inner.querySelectorAll("details.dialogue:not([hidden])").length;
  found.count = inner.getElementById("count").textContent;
  found.images = inner.images.length;
  inner.querySelector("details.dialogue:not([hidden]) summary").focus();
  found.summary = inner.activeElement.tagName;
"""


@pytest.mark.slow
def test_page_fits_its_window_and_filters_in_a_browser(tmp_path: Path) -> None:
    page = render_page(hostile_report())
    (tmp_path / "index.html").write_text(page, "utf-8")
    found, logged = look(tmp_path, 'inner.getElementById("all").click();', KEYS)
    entries = 2 * (20 + 10 + 10)
    assert found == {
        "320": 0, "380": 0, "1440": 0, "order": "intent,stop,set,all", "focused": True,
        "all": entries, "cake": 1, "nothing": 0, "none": 3, "ended": 1,
        "count": f"1 of {entries} entries shown", "images": 0, "summary": "SUMMARY",
    }  # fmt: skip
    assert "CONSOLE" not in logged, logged


CONTRAST = """
  const channel = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((one) => channel(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = inner.defaultView.getComputedStyle(one).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = inner.querySelectorAll("p, th, td span, dt, dd, li, summary span, .text, a");
  const look = () => {
    let least = 21;
    for (const one of texts) {
      const style = inner.defaultView.getComputedStyle(one);
      const pair = [light(style.color), light(behind(one))].sort((a, b) => b - a);
      least = Math.min(least, (pair[0] + 0.05) / (pair[1] + 0.05));
    }
    return {readable: least >= 4.5, dark: light(behind(inner.body)) < 0.1};
  };
  found.light = look();
  for (const sheet of inner.styleSheets) for (const rule of sheet.cssRules)
    if (rule.media?.mediaText === "(prefers-color-scheme: dark)") rule.media.mediaText = "all";
  found.dark = look();
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "two", "alone"])
def test_text_stands_out_in_light_and_dark(tmp_path: Path, name: str) -> None:
    (tmp_path / "index.html").write_text(render_page(report(**CASES[name])), "utf-8")
    found, logged = look(tmp_path, "", CONTRAST)
    assert found == {
        "320": 0, "380": 0, "1440": 0,
        "light": {"readable": True, "dark": False}, "dark": {"readable": True, "dark": True},
    }  # fmt: skip
    assert "CONSOLE" not in logged, logged
