"""Two evaluations compared: in pairs where they can be, adjusted for many tests, doubts said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluations import N, ids, make_evaluation, one, shares, without, write_evaluation

from userlm_synth.errors import UserError
from userlm_synth.estimates import Units
from userlm_synth.evaluation.compare import (
    COMPARED,
    compare,
    comparison_table,
    holm,
    independent,
)
from userlm_synth.records import Record

LABEL = "UserLM-1"
ROLE = "role_adherence"


def by_figure(record: Record, at: int = 0) -> dict[str, Record]:
    """The figures of the pair of rows number `at`."""
    pairs = list(dict.fromkeys(tuple(each["labels"]) for each in record["figures"]))
    return {
        each["figure"]: each for each in record["figures"] if tuple(each["labels"]) == pairs[at]
    }


def words(seed: int, ratio: float) -> Units:
    """Losses on conversations that are hard or easy for all models; `ratio` times perplexity."""
    hard = np.random.default_rng(1).normal(2.0, 0.5, N)
    own = np.random.default_rng(seed).normal(np.log(ratio), 0.05, N)
    tokens = np.random.default_rng(2).integers(20, 60, N).astype(float)
    return Units(ids(), (hard + own) * tokens, tokens, exp=True)


def with_units(folder: Path, units: dict[str, Units], labels: int = 1) -> Path:
    """An evaluation whose figures are those of its units."""
    evaluation = make_evaluation(labels)
    for name, some in units.items():
        found = some.estimate(samples=500, seed=0)
        parts = name.split(".")
        place = evaluation["results"][0]
        for part in parts[:-1]:
            place = place[part]
        place[parts[-1]] |= found
    return write_evaluation(folder, evaluation, {(LABEL, key): one for key, one in units.items()})


# ---- the test of one figure ------------------------------------------------------------------


def test_pairs_find_what_intervals_alone_do_not(tmp_path: Path) -> None:
    better, worse = shares(0.72, 1), shares(0.66, 2)
    first = with_units(tmp_path / "a", {ROLE: worse})
    second = with_units(tmp_path / "b", {ROLE: better})
    paired = by_figure(compare(first, second))[ROLE]
    assert paired["paired"]
    assert paired["n"] == N
    assert paired["significant"]
    assert paired["value"] == pytest.approx(better.value - worse.value)
    assert paired["interval"][0] <= paired["value"] <= paired["interval"][1]
    (second / "units.jsonl").unlink()
    alone = by_figure(compare(first, second))[ROLE]
    assert not alone["paired"]
    assert not alone["significant"]
    assert alone["value"] == pytest.approx(paired["value"])


def test_the_same_model_twice_differs_in_nothing(tmp_path: Path) -> None:
    units = {ROLE: shares(0.7, 1), "perplexity.with_intent": words(3, 1.0)}
    record = compare(with_units(tmp_path / "a", units), with_units(tmp_path / "b", units))
    assert not any(each["significant"] for each in record["figures"])
    assert {each["p_holm"] for each in record["figures"]} == {1.0}
    assert len(record["figures"]) == len(COMPARED) - 1  # no average precision in this one


def test_two_models_of_one_strength_rarely_differ(tmp_path: Path) -> None:
    found = 0
    for seed in range(12):
        first = with_units(tmp_path / f"a{seed}", {ROLE: shares(0.7, 2 * seed + 10)})
        second = with_units(tmp_path / f"b{seed}", {ROLE: shares(0.7, 2 * seed + 11)})
        found += by_figure(compare(first, second))[ROLE]["significant"]
    assert found <= 1


def test_perplexities_are_compared_by_their_ratio(tmp_path: Path) -> None:
    name = "perplexity.with_intent"
    first = with_units(tmp_path / "a", {name: words(3, 1.0)})
    second = with_units(tmp_path / "b", {name: words(4, 1.05)})
    record = compare(first, second)
    each = by_figure(record)[name]
    assert (each["kind"], each["significant"]) == ("ratio", True)
    assert each["value"] == pytest.approx(1.05, abs=0.02)
    assert "x1.05" in comparison_table(record)
    unpaired = independent(one(10.5, 0.1), one(10.0, 0.1), ratio=True)
    assert unpaired["value"] == pytest.approx(1.05)
    assert unpaired["interval"][0] > 1


def test_bits_per_byte_are_found_under_their_name_among_the_units(tmp_path: Path) -> None:
    units = {("UserLM-1", "bits_per_byte.with_intent"): shares(0.5, 1)}
    folders = [write_evaluation(tmp_path / name, make_evaluation(1), units) for name in "ab"]
    assert by_figure(compare(*folders))["perplexity.with_intent.bits_per_byte"]["paired"]


def test_independent_figures_add_their_errors() -> None:
    found = independent(one(60.0, 3.0), one(55.0, 4.0), ratio=False)
    assert found["value"] == 5.0
    assert found["interval"] == pytest.approx([0.0, 10.0])
    assert found["p"] == pytest.approx(0.05, abs=1e-4)
    assert independent(one(60.0, 0.0), one(60.0, 0.0), ratio=False)["p"] == 1.0
    assert independent(one(60.0, 0.0), one(55.0, 0.0), ratio=False)["p"] is None


def test_holm_adjusts_for_how_many_there_are() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_the_more_figures_the_more_resamples_so_that_one_can_still_be_significant(
    tmp_path: Path,
) -> None:
    sides = []
    for name, rate in (("a", 0.5), ("b", 0.9)):
        evaluation = make_evaluation(6)
        labels = [row["label"] for row in evaluation["results"]][:-1]
        units = {(label, ROLE): shares(rate, at) for at, label in enumerate(labels)}
        sides.append(write_evaluation(tmp_path / name, evaluation, units))
    record = compare(*sides, samples=100)
    assert len(record["figures"]) > 100  # a p of 1 / 100 would be nothing after Holm
    assert all(by_figure(record, at)[ROLE]["significant"] for at in range(6))


# ---- which rows, and what is said ------------------------------------------------------------


def test_rows_are_matched_by_label_then_by_model(tmp_path: Path) -> None:
    first, second = make_evaluation(3), make_evaluation(["UserLM-3", "mine"])
    second["results"][1]["model"] = "hf:models/UserLM-2"
    folders = [write_evaluation(tmp_path / str(at), x) for at, x in enumerate((first, second))]
    found = {tuple(each["labels"]) for each in compare(*folders)["figures"]}
    assert found == {("UserLM-3", "UserLM-3"), ("UserLM-2", "mine")}


def test_a_lone_model_is_matched_with_the_other_lone_one(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", make_evaluation(["small"], ["one.jsonl"]))
    second = write_evaluation(tmp_path / "b", make_evaluation(["large"], ["other.jsonl"]))
    record = compare(first, second)
    assert {tuple(each["labels"]) for each in record["figures"]} == {("small", "large")}
    assert not any(each["paired"] for each in record["figures"])
    assert "small (A) and large (B) on one.jsonl (A) and other.jsonl (B)" in comparison_table(
        record
    )
    assert any("other conversations, one.jsonl / other.jsonl" in x for x in record["warnings"])


def test_another_model_of_the_same_label_is_named(tmp_path: Path) -> None:
    first, second = make_evaluation(1), make_evaluation(1)
    second["results"][0]["model"] = "hf:retrained"
    folders = [write_evaluation(tmp_path / str(at), x) for at, x in enumerate((first, second))]
    assert "  hf:models/UserLM-1 (A) and hf:retrained (B)\n" in comparison_table(compare(*folders))


def test_people_are_not_compared_with_themselves(tmp_path: Path) -> None:
    folders = [write_evaluation(tmp_path / name, make_evaluation(2)) for name in "ab"]
    assert not [each for each in compare(*folders)["figures"] if "human" in each["labels"]]


def test_other_conversations_under_the_same_name_are_not_paired(tmp_path: Path) -> None:
    units = {(LABEL, "naturalness"): shares(0.5, 1), (LABEL, ROLE): shares(0.5, 1)}
    first, second = make_evaluation(1), make_evaluation(1)
    second["conversations"][0]["hash"] = "another"
    folders = [
        write_evaluation(tmp_path / str(at), x, units) for at, x in enumerate((first, second))
    ]
    found = by_figure(compare(*folders))
    assert not found["naturalness"]["paired"]
    assert found[ROLE]["paired"]  # its questions are not from the conversations


def test_what_is_not_alike_is_said(tmp_path: Path) -> None:
    first, second = make_evaluation(1), make_evaluation(1)
    second["settings"] |= {"top_p": 1.0, "models": {"other": {"model": "x"}}}
    second["definitions"] = {"words": "others"}
    row, people = second["results"]
    row["role_adherence"]["questions"] = "else.jsonl"
    row["perplexity"]["with_intent"] |= {"tokens": 11_000, "form": "prompted"}
    row["first_turn_diversity"]["n"] = 150
    people["naturalness"]["value"] = 70.0
    units = {(LABEL, ROLE): shares(0.5, 1)}
    record = compare(
        write_evaluation(tmp_path / "a", first, units), write_evaluation(tmp_path / "b", second)
    )
    told = "\n".join(record["warnings"])
    for text in (
        "other settings: top_p 0.8 / 1.0\n",
        "not defined alike",
        "role adherence not measured alike: questions mcq.jsonl / else.jsonl",
        "counted in other tokens (12,345 / 11,000, with intent)",
        "/ prompted, with intent",
        "first-turn diversity 200 / 150",
        "people get 90.20 / 70.00",
        f"no units.jsonl in {tmp_path / 'b'}",
    ):
        assert text in told, text
    assert "models.other" not in told
    assert not by_figure(record)[ROLE]["paired"]
    assert comparison_table(record).count("warning: ") == len(record["warnings"])


def test_alike_evaluations_need_no_warning(tmp_path: Path) -> None:
    units = {(LABEL, ROLE): shares(0.5, 1)}
    folders = [write_evaluation(tmp_path / name, make_evaluation(1), units) for name in "ab"]
    assert compare(*folders)["warnings"] == []


# ---- the table, and what goes wrong ----------------------------------------------------------


def test_the_table_says_all_of_a_figure_in_one_line(tmp_path: Path) -> None:
    first = with_units(tmp_path / "a", {ROLE: shares(0.5, 1)})
    second = with_units(tmp_path / "b", {ROLE: shares(0.9, 2)})
    record = compare(first, second)
    text = comparison_table(record)
    (line,) = [line for line in text.splitlines() if line.startswith("  Role adherence")]
    gap = by_figure(record)[ROLE]
    assert line.startswith("  Role adherence \u2191 ")
    assert f"+{gap['value']:.2f} [{gap['interval'][0]:.2f}, {gap['interval'][1]:.2f}]" in line
    assert line.endswith("yes          200 pairs")
    assert (
        f"1 of {len(record['figures'])} differences are significant at 0.05 (Holm, over all "
        f"{len(record['figures'])}); 1 by resampling in pairs" in text
    )
    assert f"A: {first}\nB: {second}" in text


def test_a_comparison_is_the_same_each_time_and_from_every_name_of_it(tmp_path: Path) -> None:
    first = with_units(tmp_path / "a" / "evaluation", {ROLE: shares(0.5, 1)})
    second = with_units(tmp_path / "b", {ROLE: shares(0.6, 2)})
    runs = [compare(path, second, seed=3) for path in (first, first.parent)]
    runs.append(compare(first / "evaluation.json", second / "evaluation.json", seed=3))
    assert runs[0]["figures"] == runs[1]["figures"] == runs[2]["figures"]
    assert compare(second, first)["figures"][0]["one"] == runs[0]["figures"][0]["other"]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("evaluation.json", "{", "evaluation.json: is no evaluation: not JSON"),
        ("evaluation.json", '{"seed": 1}', "is no evaluation as this version writes it"),
        ("evaluation.json", "[1]", "is no evaluation as this version writes it"),
        ("other.json", "{}", "holds no evaluation.json; name one"),
    ],
)
def test_a_file_that_is_no_evaluation_is_one_line(
    name: str, text: str, problem: str, tmp_path: Path
) -> None:
    good = write_evaluation(tmp_path / "good", make_evaluation(1))
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / name).write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        compare(good, bad)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        compare(tmp_path / "nowhere", good)


def test_broken_units_name_their_line(tmp_path: Path) -> None:
    units = {(LABEL, ROLE): shares(0.5, 1)}
    folders = [write_evaluation(tmp_path / name, make_evaluation(1), units) for name in "ab"]
    with (folders[0] / "units.jsonl").open("a") as file:
        file.write('{"label": "x", "units": {}}\n')
    with pytest.raises(UserError, match=r"units.jsonl:2: is no line of units"):
        compare(*folders)


def test_nothing_in_common_is_one_line(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", make_evaluation(["x", "y"]))
    second = write_evaluation(tmp_path / "b", make_evaluation(["v", "w"]))
    with pytest.raises(UserError, match="have nothing in common"):
        compare(first, second)
    bare = make_evaluation(1)
    names = ("perplexity", "first_turn_diversity", "first_turn_overlap", "intent_decomposition",
             "termination", "naturalness", "role_adherence", "intent_adherence")  # fmt: skip
    bare["results"] = [without(bare["results"][0], **dict.fromkeys(names, "not asked for"))]
    empty = write_evaluation(tmp_path / "c", bare)
    with pytest.raises(UserError, match="have nothing in common"):
        compare(empty, empty)
