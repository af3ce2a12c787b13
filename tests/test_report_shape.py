"""The shape of a set: every record counts, exactly, and an odd record is not in the way."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.errors import UserError
from userlm_synth.metrics import words
from userlm_synth.reporting.beside import cost, read_intents, rejections
from userlm_synth.reporting.shape import (
    OTHERS,
    WORD_BINS,
    Shape,
    count_words,
    counted,
    histogram,
    number_of,
    quantile,
    spread,
)

Record = dict[str, Any]


def dialogue(at: int, user: list[str], **more: Any) -> Record:
    messages = []
    for text in user:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "ok so"}]
    return {"id": f"d{at}", "messages": messages, **more}


def shape_of(records: list[Record]) -> Shape:
    shape = Shape()
    for at, record in enumerate(records):
        shape.add(at, record)
    return shape


@given(st.text(alphabet="ab' \u2019_-1.\u00e9\u201c\u2014\n\u4e2d\u0301\u0e01", max_size=30))
def test_words_are_counted_fast_and_right(text: str) -> None:
    assert count_words(text) == len(words(text))


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40))
def test_quantiles_of_counts_are_those_of_the_values(values: list[int]) -> None:
    counts = Counter(values)
    found = spread(counts, WORD_BINS)
    median, p90 = np.percentile(values, [50, 90])
    assert quantile(counts, 0.5) == found["median"] == pytest.approx(median)
    assert found["p90"] == pytest.approx(p90)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert sum(histogram(counts, WORD_BINS)) == len(values)


def test_turns_words_and_names_of_three_dialogues_by_hand() -> None:
    made = [
        dialogue(0, ["a b c"], stop_reason="user_ended", user_model="u", intent_id="i1"),
        dialogue(1, ["a", "a b"], stop_reason="user_ended", user_model="u", intent_id="i1"),
        dialogue(2, ["a b c d e f"], stop_reason="max_turns", user_model={"name": "v", "at": 1},
                 intent_id="i2"),
    ]  # fmt: skip
    found = shape_of(made).result()
    assert found["dialogues"] == 3
    assert found["turns"]["counts"] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found["words"]["user"]["turns"] == 4
    assert found["words"]["user"]["mean"] == 3
    assert found["words"]["user"]["counts"] == [2, 1, 1, 0, 0, 0, 0]
    assert found["words"]["assistant"]["median"] == 2
    assert found["stop_reasons"] == {"user_ended": 2, "max_turns": 1}
    assert found["models"]["user"] == {"u": 2, "v@1": 1}
    used = shape_of(made).intents_used(None)
    assert used["distinct"] == 2
    assert used["per_intent"] == {"min": 1, "median": 1.5, "max": 2}


def test_end_probabilities_of_the_last_place_stand_apart() -> None:
    ends = shape_of([dialogue(0, ["a"], end_probabilities=[0.05, None, 0.15, 1.0])]).result()
    ends = ends["end_probabilities"]
    assert ends["last"] == {"count": 1, "mean": 1.0, "counts": [0] * 9 + [1]}
    assert ends["earlier"]["count"] == 2
    assert ends["earlier"]["mean"] == pytest.approx(0.1)
    assert ends["earlier"]["counts"][:2] == [1, 1]


@given(st.integers(0, 30), st.randoms())
def test_parts_merged_in_order_are_the_whole(cut: int, rng: random.Random) -> None:
    made = [
        dialogue(at, ["a b"] * rng.randint(1, 12), intent_id=f"i{rng.randint(0, 4)}",
                 guardrails={"too_long": rng.randint(0, 2)}, end_probabilities=[rng.random()],
                 usage={"user": {"prompt_tokens": at, "completion_tokens": 1}})
        for at in range(30)
    ]  # fmt: skip
    one, other = shape_of(made[:cut]), shape_of(made[cut:])
    one.merge(other)
    whole = shape_of(made)
    for shape in (one, whole):  # sums of floats differ in their last digit
        shape.ends["last"].total = round(shape.ends["last"].total, 9)
    assert one.result() == whole.result()
    assert one.intents_used(None) == whole.intents_used(None)


def test_odd_fields_are_left_out_and_not_in_the_way() -> None:
    odd = dialogue(
        0, ["a"], guardrails=[1], usage={"user": 3, "assistant": {"prompt_tokens": "x"}},
        end_probabilities=["x", float("nan"), 7], stop_reason=5, language=None, intent="  ",
    )  # fmt: skip
    found = shape_of([odd]).result()
    assert found["guardrails"] == {}
    assert found["tokens"]["user"]["prompt_tokens"] == 0
    assert found["end_probabilities"]["last"]["count"] == 0
    assert found["stop_reasons"] == {"5": 1}
    assert found["languages"] == {}


def test_unused_intents_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "intents.jsonl"
    path.write_text("".join(f'{{"id": "i{at}", "intent": "x"}}\n' for at in range(4)))
    shape = shape_of([dialogue(0, ["a"], intent_id="i1"), dialogue(1, ["a"], intent_id="i1")])
    found = shape.intents_used(read_intents(path))
    assert (found["given"], found["unused"], found["unused_first"]) == (4, 3, ["i0", "i2", "i3"])
    assert number_of("i1") != number_of("i2")


@pytest.mark.parametrize("text", ["", "{}\n", "[]\n", '{"id": 3}\n', "{\n"])
def test_a_file_of_no_intents_is_a_user_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "intents.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=r"intents\.jsonl"):
        read_intents(path)


def test_rejections_and_cost_come_from_beside_the_parts(tmp_path: Path) -> None:
    rejected, bill = tmp_path / "rejected.jsonl", tmp_path / "bill.json"
    usage = {"user": {"prompt_tokens": 7, "completion_tokens": 1}}
    lines = [
        {"id": f"r{at}", "reason": "short" if at else "loop", "usage": usage} for at in range(3)
    ]
    rejected.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sides = {"user": 0.5, "assistant": 1.0}
    bill.write_text(json.dumps({"spent": sides, "under_way": {"user": 0.25, "assistant": 0}}))
    found = rejections(rejected)
    assert found["total"] == 3
    assert found["by_reason"] == {"short": 2, "loop": 1}
    assert found["tokens"]["user"]["prompt_tokens"] == 21
    assert cost(bill) == {"user": 0.75, "assistant": 1.0, "total": 1.75}
    assert cost(None) is None
    assert rejections(None)["total"] == 0
    bill.write_text('{"spent": {}}')
    with pytest.raises(UserError, match="is not a bill"):
        cost(bill)


def test_many_names_are_added_up_under_the_most_frequent() -> None:
    found = counted({f"n{at}": at for at in range(1, 101)}, most=3)
    assert list(found.items())[:3] == [("n100", 100), ("n99", 99), ("n98", 98)]
    assert found[OTHERS] == sum(range(1, 98))
