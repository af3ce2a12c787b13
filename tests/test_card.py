"""The data card: its form, sums that agree, and a page that holds all of it and runs nothing."""

from __future__ import annotations

import copy
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from browser import HOSTILE, OVERRIDE, Page, look

from userlm_synth.conversations import card as card_module
from userlm_synth.conversations.card import render_card, write_card
from userlm_synth.errors import Problems, UserError
from userlm_synth.pages import number, render, rendering, size, visible
from userlm_synth.recipe import Clean, Conversations, Recipe, load_recipe
from userlm_synth.records import Record, load_schema, record_problems
from userlm_synth.reporting.page import page as report_page

SETTINGS = Conversations(source="wildchat", clean=Clean(languages=("en", "pt")), redact=True)
SPLIT = {"users": 6301, "user_turns": 5407, "turns": 9613, "user_words": 83119, "with_intent": 29}


def step(name: str, came: int, dropped: dict[str, int], changed: dict[str, int]) -> Record:
    out = came - sum(dropped.values())
    return {"step": name, "in": came, "out": out, "dropped": dropped, "changed": changed}


def toy_card() -> Record:
    edges = [1, 2, 3, 10]
    counts = {"train": [5, 1, 0, 2], "validation": [1, 0, 0, 0], "test": [0, 0, 1, 0]}
    return {
        "name": "Prepared chats",
        "version": "0.1.0",
        "source": {
            "name": "wildchat",
            "where": "allenai/WildChat-1M",
            "revision": "0123abc",
            "license": "odc-by",
            "format": "wildchat",
        },
        "settings": Recipe(name="x", conversations=SETTINGS).as_dict()["conversations"],
        "seed": 7,
        "notes": ["Words are what stands between blanks."],
        "steps": [
            step("read", 1234, {"not JSON": 4}, {}),
            step("clean", 1230, {"other language": 1177, "flagged toxic": 13}, {"repaired": 6}),
            step("redact", 40, {}, {"[EMAIL]": 3}),
            step("templates", 40, {"copies of a prompt template": 30}, {}),
        ],
        "templates": [{"text": "write a prompt for {it}", "count": 31, "kept": 1}],
        "templates_found": 1,
        "splits": {
            "train": {"conversations": 8, **SPLIT},
            "validation": {"conversations": 1, **SPLIT},
            "test": {"conversations": 1, **SPLIT},
        },
        "histograms": {
            name: {"edges": edges, "counts": copy.deepcopy(counts)}
            for name in ("user_turns", "words_per_user_turn", "words_in_first_turn")
        },
        "languages": {"en": 7, "pt": 2, "unknown": 1},
        "countries": {"Portugal": 2, "Brazil": 6},
        "models": {f"model-{at:02d}": 1 for at in range(18)},
        "sources": {"wildchat": 10},
        "files": {"train.jsonl": {"sha256": "ab" * 32, "bytes": 2931}},
    }


def hostile_card() -> Record:
    card = toy_card()
    card["name"] = OVERRIDE
    card["source"] = dict.fromkeys(card["source"], HOSTILE) | {"license": None}
    card["notes"] = [HOSTILE]
    card["settings"]["source"] = HOSTILE
    card["steps"][0] = step(HOSTILE, 1234, {HOSTILE: 4}, {HOSTILE: 1})
    texts = ["A" * 100_000, OVERRIDE, "bell \x07, half \ud800", "\u0645\u0631\u062d\u0628\u0627"]
    card["templates"] = [{"text": text, "count": 9, "kept": 1} for text in texts]
    card["countries"] = {HOSTILE: 5, "B" * 5000: 3}
    card["models"] = {"C" * 300: 10}
    card["files"] = {f"{HOSTILE}.jsonl": card["files"]["train.jsonl"]}
    return card


def test_a_card_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    write_card(toy_card(), tmp_path / "new" / "set")
    folder = tmp_path / "new" / "set"
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "index.html"]
    assert json.loads((folder / "card.json").read_text("utf-8")) == toy_card()
    first = (folder / "index.html").read_bytes()
    write_card(toy_card(), folder)
    assert (folder / "index.html").read_bytes() == first


BROKEN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a part is missing": (lambda card: card.pop("splits"), "missing 'splits'"),
    "an unknown part": (lambda card: card.update(extra=1), "unknown 'extra'"),
    "a split is missing": (lambda card: card["splits"].pop("test"), "splits: missing 'test'"),
    "a negative count": (
        lambda card: card["steps"][1]["dropped"].update(x=-1),
        r"steps\[1\].dropped.x",
    ),
    "a count that is text": (
        lambda card: card["templates"][0].update(kept="one"),
        r"templates\[0\].kept",
    ),
    "no checksum": (
        lambda card: card["files"]["train.jsonl"].update(sha256="abc"),
        r"sha256",
    ),
    "a step loses conversations": (
        lambda card: card["steps"][3].update(out=11),
        r"steps\[3\]: 40 came from the step before; 40 in, 30 dropped, 11 out",
    ),
    "a step starts elsewhere": (
        lambda card: card["steps"].pop(2) and card["steps"][2].update({"in": 41, "out": 11}),
        r"steps\[2\]: 40 came from the step before; 41 in",
    ),
    "the splits hold another number": (
        lambda card: card["splits"]["test"].update(conversations=2),
        "splits: 11 conversations, but 10 went on from the last step",
    ),
    "a bin without a count": (
        lambda card: card["histograms"]["user_turns"]["counts"]["test"].pop(),
        "histograms.user_turns: edges rise",
    ),
    "edges that fall": (
        lambda card: card["histograms"]["user_turns"]["edges"].reverse(),
        "histograms.user_turns: edges rise",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_card_is_refused_and_nothing_is_written(fault: str, tmp_path: Path) -> None:
    card = toy_card()
    breaks, message = BROKEN[fault]
    breaks(card)
    with pytest.raises(Problems, match=message):
        write_card(card, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_every_field_of_the_schema_says_what_it_is() -> None:
    def fields(schema: Record, path: str) -> list[str]:
        found = [path] if not {"description", "$ref"} & {*schema} else []
        for key, inner in [*schema.get("properties", {}).items(), *schema.get("$defs", {}).items()]:
            found += fields(inner, f"{path}.{key}")
        return found

    assert fields(load_schema("card"), "card") == []


def test_reading_may_make_several_conversations_of_a_row(tmp_path: Path) -> None:
    card = toy_card()
    card["steps"] = [
        {"step": "read", "in": 3, "out": 10, "dropped": {"no turns": 1}, "changed": {}}
    ]
    write_card(card, tmp_path)
    text = Page((tmp_path / "index.html").read_text("utf-8")).text
    assert "10 conversations kept, of 3 rows read" in text


def test_the_page_holds_every_step_reason_and_figure() -> None:
    card = toy_card()
    text = Page(render_card(card)).text
    for one in card["steps"]:
        assert one["step"].capitalize() in text
        expected = [one["in"], one["out"], *one["dropped"].values(), *one["changed"].values()]
        assert all(number(count) in text for count in expected)
        assert all(reason in text for reason in [*one["dropped"], *one["changed"]])
    for split in card["splits"].values():
        assert all(number(count) in text for count in split.values())
    for name in ("languages", "countries"):
        assert all(key in text for key in card[name])
    for expected in (
        "allenai/WildChat-1M", "0123abc", "odc-by", "Words are what stands between blanks.",
        "write a prompt for {it}", "train.jsonl, 2.93 kB", "ab" * 32, "userlm_synth 0.1.0",
        "10 conversations kept, of 1,234 rows read", "15.4 a turn",
    ):  # fmt: skip
        assert expected in text, expected


def rows(page: str, heading: str) -> list[str]:
    """The rows of the table below a heading, cells parted by blanks."""
    table = page.split(f"<h3>{heading}</h3>")[1].split("</table>")[0]
    return [" ".join(" ".join(Page(f"<tr{row}").texts).split()) for row in table.split("<tr")[1:]]


def test_histograms_show_each_bin_with_its_share_of_all_and_of_each_split() -> None:
    assert rows(render_card(toy_card()), "User turns per conversation") == [
        "Turns All train validation test",
        "1 60.0 % 62.5 100.0 0.0",
        "2 10.0 % 12.5 0.0 0.0",
        "3–9 10.0 % 0.0 0.0 100.0",
        "10+ 20.0 % 25.0 0.0 0.0",
    ]


def test_fifteen_names_are_shown_with_what_is_left_out() -> None:
    page = render_card(toy_card())
    models = rows(page, "Models that answered")
    assert len(models) == 16
    assert models[0] == "model-00 1 10.0 %"
    assert models[-1] == "and 3 more 3 30.0 %"
    countries = ["Brazil 6 60.0 %", "Portugal 2 20.0 %", "not stated 2 20.0 %"]
    assert rows(page, "Countries") == countries


def test_a_share_that_is_not_nothing_does_not_read_as_nothing() -> None:
    card = toy_card()
    card["steps"][:2] = [
        step("read", 10**6, {"not JSON": 3}, {}),
        step("clean", 999_997, {"other language": 999_957}, {}),
    ]
    assert "3 <0.01 %" in Page(render_card(card)).text


def test_the_settings_on_the_page_are_a_recipe_that_prepares_the_same(tmp_path: Path) -> None:
    page = render_card(toy_card())
    shown = html.unescape(page.split("<pre", 1)[1].split(">", 1)[1].split("</pre>")[0])
    (tmp_path / "prepared.yaml").write_text(shown, "utf-8")
    assert yaml.safe_load(shown)["conversations"] == toy_card()["settings"]
    recipe = load_recipe(str(tmp_path / "prepared.yaml"))
    assert (recipe.seed, recipe.conversations) == (7, SETTINGS)


def test_a_set_without_licence_templates_countries_or_conversations_has_a_page() -> None:
    card = toy_card()
    card["source"] |= {"license": None, "revision": None}
    card |= {"templates": [], "templates_found": 0, "countries": {}, "models": {}, "files": {}}
    card |= {"steps": [step("read", 0, {}, {})], "languages": {}, "sources": {}}
    for split in card["splits"].values():
        split.update(dict.fromkeys(split, 0))
    for histogram in card["histograms"].values():
        histogram["counts"] = {name: [0] * 4 for name in histogram["counts"]}
    del card["notes"]
    assert record_problems(card, "card") == []
    text = Page(render_card(card)).text
    for expected in (
        "No licence is known", "None found.", "The source names no countries.",
        "Every text is as it was in the source.",
    ):  # fmt: skip
        assert expected in text


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    write_card(hostile_card(), tmp_path)
    page = Page((tmp_path / "index.html").read_text("utf-8"))
    page.assert_inert()
    assert page.text.count(HOSTILE) >= 10
    assert OVERRIDE in page.text
    assert "A" * 100_000 in page.text
    assert "bell \u2407, half ?" in page.text
    written = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert written["templates"][2]["text"] == "bell \x07, half ?"


def test_the_page_points_at_its_own_json_and_runs_no_script(tmp_path: Path) -> None:
    write_card(hostile_card(), tmp_path)
    page = Page((tmp_path / "index.html").read_text("utf-8"))
    page.assert_policy(("style",))
    assert page.targets == ["card.json"]
    assert "url(" not in page.code["style"][0]
    assert "@import" not in page.code["style"][0]


def test_the_report_and_the_card_share_one_style_and_copy_none_of_it() -> None:
    base = (rendering.PARTS / "base.css").read_text("utf-8")
    assert Page(render_card(toy_card())).code["style"][0].startswith(base)
    rules = {line.strip() for line in base.splitlines() if line.endswith("; }")}
    assert len(rules) > 40
    for template in (card_module.TEMPLATE, report_page.TEMPLATE):
        own = {line.strip() for line in template.read_text("utf-8").splitlines()}
        assert '{% include "base.css" %}' in own
        assert rules & own == set()


def test_a_page_that_cannot_be_made_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_card(toy_card(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = tmp_path.parent / "broken.html.j2"
    broken.write_text("<p>{{ card.name }}</p>{{ card.nothing.there }}")
    monkeypatch.setattr(card_module, "TEMPLATE", broken)
    with pytest.raises(jinja2.UndefinedError):
        write_card(toy_card() | {"name": "Another"}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_out_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here")
    with pytest.raises(UserError, match="out: the data card cannot be written"):
        write_card(toy_card(), tmp_path / "out")


def test_a_full_disk_leaves_no_half_written_file(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("16k")
    with pytest.raises(UserError, match="the disk is full"):
        write_card(toy_card(), disk)
    assert not (disk / "index.html").exists()
    assert not list(disk.glob(".*"))


def test_a_template_escapes_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "page.html.j2").write_text("<p title='{{ text }}'>{{ text | breakable }}</p>")
    page = render(tmp_path / "page.html.j2", text="'<b>" + "x" * 900)
    assert "<b>" not in page
    assert page.count("<wbr>") >= 2
    assert visible("a\r\nb\tc\x00\x7f\ud800") == "a\nb\tc\u2400\u2421?"


def test_sizes_for_readers() -> None:
    sizes = [size(count) for count in (0, 1, 999, 1000, 2931, 999_950, 3_100_000_000, 10**16)]
    assert sizes == [
        "0 bytes", "1 byte", "999 bytes", "1.00 kB", "2.93 kB", "1.00 MB", "3.10 GB", "10,000.0 TB",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("make", [toy_card, hostile_card])
def test_the_page_fits_its_window_and_logs_nothing(
    make: Callable[[], Record], tmp_path: Path
) -> None:
    write_card(make(), tmp_path)
    after = "found.images = inner.images.length; found.bars = inner.querySelectorAll('svg').length"
    found, logged = look(tmp_path, after=after)
    assert found.pop("bars") > 20
    assert found == {"320": 0, "380": 0, "1440": 0, "images": 0}
    assert "CONSOLE" not in logged, logged
