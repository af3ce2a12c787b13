"""Facts about the figures of Table 3, each worked out by hand, and about shards told by words."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.benchmark.figures import (
    ALL_REQUIRED,
    FIGURES,
    NO_DIALOGUE,
    NOTHING_JUDGED,
    Held,
    add_demands,
    domain_rows,
    intent_coverage,
    repeat_required,
    skip_non_required,
    task_rows,
    turn_variance,
)
from userlm_synth.benchmark.notes import label_of, labels
from userlm_synth.benchmark.word_match import kappa, match_turns
from userlm_synth.records import Record

TURNS = [frozenset({0, 1}), frozenset({1}), frozenset[int]()]


def task(name: str, required: tuple[bool | None, ...], domain: str = "math") -> Record:
    shards = [{"id": str(n), "text": "x", "required": mark} for n, mark in enumerate(required)]
    return {"id": name, "domain": domain, "shards": shards}


def held(
    task: str, exchanges: int, revealed: object, text: str = "a", solved: bool = False
) -> Held:
    return Held(task, [text], exchanges, solved, revealed, [["more"]] if solved else [[]])  # type: ignore[arg-type]


# ---- one dialogue ----------------------------------------------------------------------------


def test_coverage_is_the_share_of_shards_revealed_at_least_once() -> None:
    assert intent_coverage(TURNS, 4) == 50
    assert intent_coverage([], 4) == 0


def test_a_repeat_is_a_required_shard_in_two_turns_or_more() -> None:
    assert repeat_required(TURNS, {0, 1}) == 100
    assert repeat_required(TURNS, {0, 2}) == 0


def test_a_skip_is_a_shard_that_is_not_required_and_never_told() -> None:
    assert skip_non_required(TURNS, {2}) == 100
    assert skip_non_required(TURNS, {0, 2}) == 100
    assert skip_non_required(TURNS, {1}) == 0
    assert skip_non_required(TURNS, frozenset()) is None


def test_one_turn_with_news_makes_an_additional_demand() -> None:
    assert add_demands([[], ["in a loop"]]) == 100
    assert add_demands([[], []]) == 0


# ---- the runs of a task ----------------------------------------------------------------------


def test_turn_variance_is_divided_by_n_minus_1() -> None:
    assert turn_variance([2, 4, 6]) == 4  # of the mean 4: (4 + 0 + 4) / 2
    assert turn_variance([3]) is None


# ---- a table ---------------------------------------------------------------------------------

TASKS = {
    "m": task("m", (True, True)),
    "n": task("n", (None, None)),
    "c": task("c", (True, False), "code"),
}
DIALOGUES = [
    held("m", 2, [{0}]),
    held("m", 4, [{0, 1}], solved=True),
    held("c", 1, [{0}], text="b c"),
    held("c", 3, None),
    held("c", 5, [{0, 1}], text="b d"),
    held("n", 3, [{0}]),
]


def values(row: Record) -> dict[str, float | None]:
    return {name: one and one["value"] for name, one in row["figures"].items()}


def test_dialogues_are_averaged_over_all_and_runs_over_tasks() -> None:
    rows = {row["domain"]: row for row in domain_rows(TASKS, DIALOGUES, 0)}
    found = values(rows["all"])
    assert found["intent_coverage"] == pytest.approx((50 + 100 + 50 + 100 + 50) / 5)
    assert found["assistant_score"] == pytest.approx(100 / 6)
    assert found["turn_variance"] == (2 + 4) / 2, "n has one run and is left out"
    assert (found["turn_min"], found["turn_max"]) == ((2 + 1) / 2, (4 + 5) / 2)
    assert found["skip_non_required"] == 50, "of the two judged dialogues of c"
    assert found["add_demands"] == 20
    ns = {name: one["n"] for name, one in rows["all"]["figures"].items()}
    assert (ns["intent_coverage"], ns["assistant_score"], ns["turn_variance"]) == (5, 6, 2)
    assert [rows[name]["dialogues"] for name in ("all", "math", "code")] == [6, 3, 3]
    assert rows["math"]["not_measured"] == {"skip_non_required": ALL_REQUIRED}
    assert values(rows["math"])["turn_variance"] == 2


def test_an_interval_is_over_tasks_and_holds_the_figure() -> None:
    one = domain_rows(TASKS, DIALOGUES, 0)[0]["figures"]["assistant_score"]
    low, high = one["interval"]
    # of three tasks with 2, 3 and 1 dialogues, m alone solves, one of its two
    assert (low, high) == (0, 50)
    same = [held(name, 2, [{0}], solved=True) for name in TASKS for _ in range(3)]
    one = domain_rows(TASKS, same, 0)[0]["figures"]["assistant_score"]
    assert one["interval"] == [100, 100]


def test_tasks_of_one_kind_have_one_row() -> None:
    some = {"m": TASKS["m"], "n": TASKS["n"]}
    assert [row["domain"] for row in domain_rows(some, DIALOGUES[:2], 0)] == ["all"]


def test_what_is_not_there_says_why() -> None:
    assert domain_rows(TASKS, [], 0)[0]["not_measured"] == dict.fromkeys(FIGURES, NO_DIALOGUE)
    unjudged = [held("m", 1, None), held("m", 1, None)]
    why = domain_rows(TASKS, unjudged, 0)[0]["not_measured"]
    assert set(why.values()) == {NOTHING_JUDGED}
    assert "assistant_score" not in why


def test_each_task_has_its_own_figures() -> None:
    rows = {row["id"]: row for row in task_rows(TASKS, DIALOGUES)}
    assert rows["c"]["figures"]["turn_max"] == 5
    assert rows["c"]["figures"]["unigram_difference"] == pytest.approx(1 - (0 + 0 + 1 / 3) / 3)
    assert rows["n"]["figures"]["turn_variance"] is None
    assert rows["m"]["dialogues"] == 2


# ---- shards by words -------------------------------------------------------------------------

HONEY = ["how many jars of honey does he sell", "he has 12 hives", "each one gives 1,200.50 grams"]


def test_a_shard_is_told_by_its_numbers_and_most_of_its_words() -> None:
    turns = [
        "12 hives",
        "twelve hives he has",
        "hives",
        "13 hives",
        "12 bees",
        "each gives 1200.5 grams",
    ]
    assert [sorted(turn) for turn in match_turns(HONEY, turns)] == [[1], [1], [], [], [], [2]]


def test_inflected_forms_are_the_same_word_and_a_turn_may_tell_several() -> None:
    turn = "I sell jars of honey, how many? And I had 12 hives"
    assert match_turns(HONEY, [turn]) == [frozenset({0, 1})]


def test_one_counts_as_1_but_is_not_asked_for() -> None:
    assert match_turns(["1 hive swarms"], ["one hive swarms"]) == [frozenset({0})]
    assert match_turns(["one of the hives swarms"], ["a hive swarms"]) == [frozenset({0})]


def test_a_shard_of_function_words_alone_is_never_told() -> None:
    assert match_turns(["what is it that you are"], ["what is it that you are"]) == [frozenset()]


@pytest.mark.skipif("USERLM_SYNTH_DATA" not in os.environ, reason="USERLM_SYNTH_DATA is not set")
def test_a_whole_question_tells_most_shards_and_one_shard_few_others() -> None:
    path = Path(os.environ["USERLM_SYNTH_DATA"]) / "gsm8k_sharded.json.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    told = others = total = pairs = 0
    for one in json.loads(gzip.decompress(path.read_bytes()))[:150]:
        shards = [shard["shard"] for shard in one["shards"]]
        told += len(match_turns(shards, [one["question"]])[0])
        for at, turn in enumerate(match_turns(shards, shards)):
            others += len(turn - {at})
        total, pairs = total + len(shards), pairs + len(shards) * (len(shards) - 1)
    assert told / total > 0.9
    assert others / pairs < 0.2


def test_kappa_is_agreement_beyond_chance() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert kappa(*map(list, zip(*pairs, strict=True))) == pytest.approx(0.4)
    assert kappa([True, True], [True, True]) is None


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    from sklearn.metrics import cohen_kappa_score

    one, other = map(list, zip(*pairs, strict=True))
    found = kappa(one, other)
    if found is None:
        assert len({*one, *other}) == 1
    else:
        assert found == pytest.approx(cohen_kappa_score(one, other))


# ---- headings --------------------------------------------------------------------------------


def test_a_spec_is_headed_by_its_models_name() -> None:
    assert label_of("openai:gpt-4o@https://api.openai.com/v1") == "gpt-4o"
    assert label_of("prompted:openai:Qwen/Qwen3-8B@http://h:8000/v1") == "prompted Qwen3-8B"
    assert label_of("hf:microsoft/UserLM-8b@abc") == "UserLM-8b@abc"
    assert label_of("runs/mine/user_lm") == "mine/user_lm"
    specs = ["a/x", "b/x", "c/y"]
    assert labels([{"user": {"spec": spec}} for spec in specs]) == ["x (1)", "x (2)", "y"]
