"""The plots for a card: the same bytes each time, and nothing drawn that is not known."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from browser import OVERRIDE
from reports import report

from userlm_synth.errors import UserError
from userlm_synth.reporting.page.plots import _distance, label, write_plots

EVERY = ["diversity.png", "naturalness.png", "lengths.png", "stop_reasons.png"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plots of two sets."""
    folder = tmp_path_factory.mktemp("drawn")
    assert write_plots(report(sets=2), folder) == EVERY
    return folder


def test_plots_are_png_and_the_same_each_time(drawn: Path, tmp_path: Path) -> None:
    assert write_plots(report(sets=2), tmp_path) == EVERY
    for name in EVERY:
        first = (drawn / name).read_bytes()
        assert first == (tmp_path / name).read_bytes()
        assert first.startswith(PNG)
        assert b"matplotlib" not in first.lower()
        assert 10_000 < len(first) < 300_000


def test_a_plot_is_white_behind_and_not_empty(drawn: Path) -> None:
    import matplotlib.image as image

    for name in EVERY:
        pixels = image.imread(drawn / name)[..., :3]
        assert pixels[0, 0].tolist() == pixels[-1, -1].tolist() == [1, 1, 1]
        assert (pixels < 1).any(axis=2).mean() > 0.02


def test_without_a_reference_nothing_is_drawn_beside_people(tmp_path: Path) -> None:
    assert write_plots(report(reference=False), tmp_path) == EVERY[2:]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(EVERY[2:])


def test_a_set_without_stop_reasons_has_no_plot_of_them(tmp_path: Path) -> None:
    made = report()
    made["sets"][0]["shape"]["stop_reasons"] = {}
    assert write_plots(made, tmp_path) == EVERY[:3]


def test_strange_names_make_no_trouble(tmp_path: Path) -> None:
    made = report(sets=2)
    names = {OVERRIDE: 3, "$\\frac{1": 2, "\u4f60\u597d\U0001f419": 9, "x" * 500: 4, "a\nb\x07": 1}
    for one in made["sets"]:
        one["shape"]["stop_reasons"] = names
    made["sets"][0]["name"] = f"_{OVERRIDE}"
    made["definitions"][0]["name"] = "$100 & more $"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write_plots(made, tmp_path) == EVERY


def test_labels_are_one_short_line_of_what_can_be_drawn() -> None:
    assert label(f"a\nb\x07{OVERRIDE[0]}c") == "a bc"
    assert label("x" * 99) == "x" * 43 + "\u2026"


def test_distance_is_counted_in_what_chance_explains() -> None:
    found = report()["sets"][0]["figures"]
    assert _distance(found["first_turn_diversity"]) == pytest.approx(-2.2 / 0.35)
    assert _distance(found["classifier"]) == pytest.approx((74.1 - 50.3) / 2.1)
    assert _distance(found["mauve"]) == pytest.approx(-(94.8 - 71.5) / 2.9)
    assert _distance(None) is None
    still = {**found["toxic"], "difference": 0.0, "chance": {"median": 0.0, "p95": 0.0}}
    assert _distance(still) == 0
    assert _distance({**still, "difference": -1.0}) == float("-inf")


def test_folder_that_is_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("here")
    with pytest.raises(UserError, match="the plot cannot be written"):
        write_plots(report(), tmp_path / "plots")
