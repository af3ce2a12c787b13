"""The page of an evaluation: the paper's figures by numbers, any count of models, hostile names."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from browser import HOSTILE, OVERRIDE, Page, look
from evaluations import TURNS, WHY, human_row, make_evaluation, model_row, without
from hypothesis import example, given
from hypothesis import strategies as st

from userlm_synth.evaluation import charts, drawings
from userlm_synth.evaluation.charts import Line, Point
from userlm_synth.evaluation.columns import models
from userlm_synth.evaluation.page import TEMPLATE, render_page
from userlm_synth.records import Record

FILE = "chats.jsonl"
NAMES = [f"{OVERRIDE}{'x' * 280}", "W" * 300, '"><b>&amp;', "模型" * 40]
ACROSS = st.floats(0.01, 1e6)


def drawn(count: int, number: int) -> Record:
    """Figure `number` of an evaluation of so many models."""
    evaluation = make_evaluation(count)
    marked = drawings.keys(models(evaluation))
    figure = getattr(drawings, f"figure_{number}")(evaluation["results"], marked)
    assert figure
    return dict(figure)


# ---- geometry --------------------------------------------------------------------------------


@given(ACROSS, ACROSS)
@example(0.01, 0.010000000000000002)
@example(0.01, 0.01 * (1 + 1.1e-6))
def test_marks_of_an_axis_enclose_what_it_shows_and_are_few(one: float, other: float) -> None:
    low, high = sorted((one, other))
    for log in (True, False, None):
        marks, _ = charts.axis(low, high, log=log)
        assert marks == sorted(set(marks))
        assert marks[0] <= low * (1 + 1e-6)
        assert marks[-1] >= high * (1 - 1e-6)
        assert 2 <= len(marks) <= 9


def test_an_axis_is_logarithmic_from_a_span_of_ten() -> None:
    assert charts.axis(3, 29)[1] is False
    assert charts.axis(3, 31)[1] is True


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_labels_at_the_ends_of_lines_do_not_cover_each_other(values: list[float]) -> None:
    lines = [Line(str(at), "s1", [Point(1, x, x, x)]) for at, x in enumerate(values)]
    panel = charts.panel(lines, marks=[0, 50, 100], log=False, turns=1)
    places = sorted(line["y"] for line in panel["lines"])
    gaps = [after - before for before, after in itertools.pairwise(places)]
    assert all(gap >= charts.APART - 0.02 for gap in gaps)
    assert places[0] >= charts.TOP
    assert places[-1] <= panel["floor"]


@pytest.mark.parametrize("count", range(1, 13))
def test_all_that_is_drawn_lies_in_its_frame(count: int) -> None:
    for number in (4, 5, 6):
        for panel in drawn(count, number)["panels"]:
            for line in panel["lines"]:
                pairs = [pair.split(",") for pair in f"{line['path']} {line['band']}".split()]
                for x, y in pairs:
                    assert panel["left"] <= float(x) <= panel["right"]
                    assert charts.TOP <= float(y) <= panel["floor"]
    for row in drawn(count, 3)["chart"]["rows"]:
        for part in row["parts"]:
            assert 0 <= part["low"] <= part["width"] <= part["high"]
            assert part["text"] <= charts.BAR_WIDTH - 60


# ---- the figures -----------------------------------------------------------------------------


def test_figure_3_has_two_bars_a_model_and_turns_logarithmic() -> None:
    few, many = drawn(2, 3)["chart"], drawn(12, 3)["chart"]
    assert [len(row["parts"]) for row in few["rows"]] == [2, 2]
    without_intent, with_intent = few["rows"][0]["parts"]
    assert without_intent["width"] / with_intent["width"] == pytest.approx(1.3, abs=0.01)
    assert (few["log"], few["ticks"][0]["label"]) == (False, "0")
    assert (many["log"], many["ticks"][0]["label"]) == (True, "1")


def test_figure_4_shows_both_conditions_side_by_side_on_one_axis() -> None:
    first, second = drawn(3, 4)["panels"]
    assert (first["title"], second["title"]) == ("Without the intent", "With the intent")
    assert first["y_ticks"] == second["y_ticks"]
    assert [line["label"] for line in first["lines"]] == ["A", "B", "C"]
    assert all(line["band"] for line in first["lines"])


def test_turns_of_few_conversations_are_in_the_table_only() -> None:
    figure = drawn(1, 4)
    assert len(figure["panels"][0]["lines"][0]["dots"]) == TURNS - 1
    assert len(figure["table"][0]["rows"]) == TURNS
    small = model_row("m", FILE, 0)
    for one in small["perplexity"]["with_intent"]["per_turn"]:
        one["n"] = 3
    (panel,) = drawings.figure_4([without_half(small)], drawings.keys(["m"]))["panels"]  # type: ignore[index]
    assert len(panel["lines"][0]["dots"]) == TURNS


def without_half(row: Record) -> Record:
    return {**row, "perplexity": {"with_intent": row["perplexity"]["with_intent"]}}


def test_figure_5_has_people_beside_the_models() -> None:
    figure = drawn(2, 5)
    assert [entry["name"] for entry in figure["legend"]] == ["UserLM-1", "UserLM-2", "human"]
    for panel in figure["panels"]:
        assert panel["lines"][-1]["style"] == "people"
        assert panel["y_ticks"][0]["label"] == "0"
    # what the intent's words are divided by does not change while the user goes on
    said = [dot["point"].value for dot in figure["panels"][1]["lines"][0]["dots"]]
    assert said == sorted(said)


def test_figure_6_has_a_panel_each_for_precision_recall_and_f1() -> None:
    figure = drawn(2, 6)
    assert [panel["title"] for panel in figure["panels"]] == ["Precision", "Recall", "F1"]
    assert {panel["y_ticks"][-1]["label"] for panel in figure["panels"]} == {"100"}


@pytest.mark.parametrize("number", [4, 5, 6])
def test_more_models_than_colours_get_a_panel_each(number: int) -> None:
    assert len(drawn(drawings.TOGETHER, number)["panels"]) <= 3
    figure = drawn(drawings.TOGETHER + 1, number)
    assert [panel["title"] for panel in figure["panels"]] == [f"UserLM-{at}" for at in range(1, 8)]
    lines = figure["panels"][2]["lines"]
    labels = [line["label"] for line in lines if line["label"]]
    assert labels == {4: ["C"], 5: ["human", "C"], 6: ["Precision", "Recall", "F1"]}[number]
    assert len(figure["table"]) >= drawings.TOGETHER + 1


def test_colours_stand_out_in_light_and_dark() -> None:
    css = TEMPLATE.read_text("utf-8")
    palettes = [
        re.findall(r"--s\d: (#\w{6})", line) for line in css.splitlines() if "--s1:" in line
    ]
    light, dark, paper = palettes
    assert len(set(light)) == len(set(dark)) == drawings.TOGETHER
    assert paper == light
    assert min(contrast(colour, "#fbfbf9") for colour in light) >= 3
    assert min(contrast(colour, "#14171a") for colour in dark) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        lin = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# ---- the page --------------------------------------------------------------------------------


def test_the_page_has_tables_figures_and_their_numbers_for_each_file() -> None:
    page = Page(render_page(make_evaluation(2, [FILE, "prism.jsonl"])))
    for number in (3, 4, 5, 6):
        assert page.text.count(f"Figure {number}: ") == 2
        assert page.text.count(f"Figure {number} as a table") == 2
    assert page.text.count("Table 1: ") == page.text.count("Tables 2 and 4: ") == 2
    assert "userlm_synth words 1" in page.text
    assert page.targets == ["evaluation.json", "tables.md", "tables.tex"]


def test_every_chart_has_a_text_for_those_who_do_not_see_it() -> None:
    page = Page(render_page(make_evaluation(8)))
    charts_of = [found for tag, found in page.tags if tag == "svg" and "aria-hidden" not in found]
    assert len(charts_of) == 4 * 8
    assert all(found["role"] == "img" and found["aria-label"] for found in charts_of)
    scrolls = [found for _, found in page.tags if found.get("class") == "scroll"]
    assert all(found.get("tabindex") == "0" for found in scrolls)


def test_the_page_says_what_is_not_measured_and_why() -> None:
    base = without(model_row("base", FILE, 1, "base"), naturalness=WHY)
    evaluation = make_evaluation(1)
    evaluation["results"] = [evaluation["results"][0], base, human_row(FILE)]
    text = re.sub(r"\s+", " ", Page(render_page(evaluation)).text)
    assert f"Not measured: naturalness (B): {WHY}" in text


def test_a_page_of_perplexities_alone_or_of_nothing_is_whole_too() -> None:
    nothing = {"termination": WHY, "first_turn_diversity": WHY, "intent_decomposition": WHY}
    adherence = {"naturalness": WHY, "role_adherence": WHY, "intent_adherence": WHY}
    evaluation = make_evaluation(1)
    row = without(evaluation["results"][0], **nothing, **adherence)
    page = Page(render_page({**evaluation, "results": [row | {"first_turn_overlap": None}]}))
    assert "Figure 4: " in page.text
    assert "Figure 5: " not in page.text
    assert "Tables 2 and 4" not in page.text
    empty = without(row, perplexity="a server")
    page = Page(render_page({**evaluation, "results": [empty]}))
    assert "svg" not in page.names
    assert "a server" in page.text


def test_hostile_names_stay_text_and_the_policy_allows_one_style() -> None:
    evaluation = make_evaluation([HOSTILE, *NAMES], [f"{HOSTILE}.jsonl"])
    evaluation["results"][0]["not_measured"] = {"naturalness": HOSTILE}
    evaluation["results"][0]["naturalness"] = None
    evaluation["settings"] |= {HOSTILE: HOSTILE}
    evaluation["definitions"] |= {HOSTILE: HOSTILE}
    page = Page(render_page(evaluation))
    page.assert_inert()
    page.assert_policy(("style",))
    assert OVERRIDE in page.text
    assert "W" * 200 in page.text


@pytest.mark.slow
def test_the_page_fits_narrow_and_wide_windows(tmp_path: Path) -> None:
    labels = [*NAMES, *[f"UserLM-{at}" for at in range(8)]]
    evaluation = make_evaluation(labels, [FILE, f"{'long_name_' * 20}.jsonl"])
    some = {*labels[:4], "human"}  # of the second file, so that they share panels
    evaluation["results"] = [
        row for row in evaluation["results"] if row["conversations"] == FILE or row["label"] in some
    ]
    (tmp_path / "index.html").write_text(render_page(evaluation), "utf-8")
    before = 'for (const one of inner.querySelectorAll("details")) one.open = true;'
    after = """
      frame.style.width = "380px";
      found.images = inner.images.length;
      const outside = (one) => {
        const box = one.getBoundingClientRect();
        return box.width && !one.closest(".scroll") && (box.right > 381 || box.left < -1);
      };
      found.cut = [...inner.querySelectorAll("svg, svg text, figure, table, caption, dd")]
        .filter(outside).map((one) => one.textContent.slice(0, 40));
      found.thin = [...inner.querySelectorAll("caption, h3, figcaption")]
        .filter((one) => one.getBoundingClientRect().width < 200).length;
    """
    found, logged = look(tmp_path, before, after)
    assert found == {"320": 0, "380": 0, "1440": 0, "images": 0, "cut": [], "thin": 0}
    assert "CONSOLE" not in logged, logged
