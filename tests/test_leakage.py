"""What is copied from the training conversations, and how many words of it in a row."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.reporting.trust import leakage as module
from userlm_synth.reporting.trust.leakage import Leakage, leakage_part
from userlm_synth.reporting.trust.passages import (
    TrainingPassages,
    hash_words,
    occur,
    open_training,
    passages,
    plain_words,
    save_training,
)
from userlm_synth.reporting.trust.share import Share, beside

Record = dict[str, Any]
TAUGHT = "My old bike has a flat tyre, and I don't know how to mend it before Monday morning."


def chat(name: str, *turns: str) -> Record:
    """A conversation whose user says these turns."""
    messages: list[Record] = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": TAUGHT}]
    return {"id": name, "messages": messages}


def told(training: Path, records: list[Record], start: int = 0) -> Leakage:
    """The tally of some records."""
    tally = Leakage(training)
    for place, record in enumerate(records, start):
        said = [
            (at, plain_words(one["content"]))
            for at, one in enumerate(record["messages"])
            if one["role"] == "user"
        ]
        tally.add(place, record["id"], said)
    return tally


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """The passages of one conversation."""
    path = tmp_path / "training.npy"
    assert save_training([chat("t", TAUGHT)], path) == {"conversations": 1, "passages": 11}
    return path


def naive(turns: list[list[str]], n: int = 8) -> list[tuple[str, ...]]:
    return [tuple(one[at : at + n]) for one in turns for at in range(len(one) - n + 1)]


words = st.lists(st.sampled_from(["a", "b", "1", "2"]), max_size=30)


@settings(deadline=None)
@given(st.lists(words, max_size=6), st.lists(words, max_size=6))
def test_passages_occur_where_eight_equal_words_stand_in_a_row(
    one: list[list[str]], other: list[list[str]]
) -> None:
    known = np.unique(passages(hash_words(other))[0])
    found, turn = passages(hash_words(one))
    grams, there = naive(one), set(naive(other))
    assert occur(found, known).tolist() == [gram in there for gram in grams]
    assert turn.tolist() == [at for at, some in enumerate(one) for _ in naive([some])]


def test_case_punctuation_and_the_shape_of_apostrophes_do_not_hide_a_copy() -> None:
    assert plain_words("I DON\u2019T know\u2014really_so") == plain_words("i don't know really so")
    assert plain_words("x" * 5000 + " end")[-1] == "end"
    assert plain_words("สวัสดี")[0] == "ส"


def test_the_share_and_the_longest_run_are_those_worked_by_hand(training: Path) -> None:
    tally = told(
        training,
        [
            chat("none", "Hello, could you tell me what the weather will be like tomorrow?"),
            # 12 words of training in a row: 5 passages of 15 - 7 = 8
            chat("copy", "Hi", "so yes MY OLD BIKE has a flat tyre and I don\u2019t know how pal"),
            chat("short", "my old bike has a flat tyre"),
        ],
    )
    part = leakage_part(tally, None, {"name": "t", "conversations": 1, "passages": 11})
    assert part["made"]["longest"] == {
        "words": 12,
        "text": "my old bike has a flat tyre and i dont know how",
        "row": 1,
        "id": "copy",
        "message": 2,
    }
    assert {key: part["made"][key] for key in ("passages", "copied", "dialogues_with_a_copy")} == {
        "passages": 5 + 8, "copied": 5, "dialogues_with_a_copy": 1,
    }  # fmt: skip
    assert part["made"]["dialogues"] == 2  # the third has no passage
    assert part["share"]["made"]["value"] == pytest.approx(100 * 5 / 13)
    assert part["share"]["people"] is None


def test_a_run_does_not_go_on_from_one_turn_to_the_next(training: Path) -> None:
    half = TAUGHT.split()
    tally = told(training, [chat("x", " ".join(half[:9]), " ".join(half[9:]))])
    longest = leakage_part(tally, None, None)["made"]["longest"]
    assert longest is not None
    assert longest["words"] == 9


def test_blocks_and_pickles_merge_to_what_one_pass_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    vocabulary = [f"w{n}" for n in range(6)]

    def talk(name: int) -> Record:
        turns = [" ".join(draw.choices(vocabulary, k=draw.randint(1, 40))) for _ in range(3)]
        return chat(f"d{name}", *turns)

    path = tmp_path / "t.npy"
    save_training([talk(n) for n in range(300)], path)
    records = [talk(n) for n in range(200)]
    whole = told(path, records)
    monkeypatch.setattr(module, "BATCH", 50)  # many look-ups instead of one
    merged = told(path, records[:70])
    merged.merge(pickle.loads(pickle.dumps(told(path, records[70:90], 70))))
    merged.merge(told(path, records[90:], 90))
    found = leakage_part(merged, None, None)
    assert found == leakage_part(whole, None, None)
    assert 0 < found["made"]["copied"] < found["made"]["passages"]


def test_training_counted_in_parts_is_the_same_file(tmp_path: Path) -> None:
    records = [chat(str(n), f"{TAUGHT} {n} {n * n} times", "short") for n in range(50)]
    parts = [TrainingPassages() for _ in range(2)]
    for place, record in enumerate(records):
        parts[place // 20 > 0].add(place, record)
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    save_training(records, tmp_path / "one.npy")
    assert parts[0].save(tmp_path / "two.npy")["conversations"] == 50
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    known = open_training(tmp_path / "one.npy")
    assert isinstance(known, np.memmap)
    assert (np.diff(known.astype(object)) > 0).all()


def test_training_without_a_passage_has_nothing_to_copy(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    assert save_training([chat("t", "hello there")], path)["passages"] == 0
    part = leakage_part(told(path, [chat("x", TAUGHT)]), None, None)
    assert part["made"]["copied"] == 0
    assert part["made"]["longest"] is None


def test_dialogues_without_eight_words_have_no_share(training: Path) -> None:
    part = leakage_part(told(training, [chat("x", "hi", "\U0001f600")]), None, None)
    assert part["share"]["made"] is None
    assert part["made"]["passages"] == 0


def test_peoples_own_share_stands_beside_and_decides_what_is_beyond_chance(training: Path) -> None:
    copies = [chat(f"c{n}", TAUGHT) for n in range(20)]
    fresh = [chat(f"f{n}", "what shall we all have for dinner on a cold night") for n in range(20)]
    found = leakage_part(told(training, copies), told(training, fresh), None)
    assert found["share"]["difference"]["value"] == pytest.approx(100)
    assert found["share"]["beyond_chance"] is True
    same = leakage_part(told(training, copies + fresh), told(training, copies + fresh), None)
    assert same["share"]["difference"]["value"] == 0
    assert same["share"]["beyond_chance"] is False


# ---- shares --------------------------------------------------------------------------------------


def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        share = Share()
        wholes = rng.integers(1, 20, 200)
        rates = rng.beta(2, 6, 200)  # conversations differ, so turns are not independent
        for whole, part in zip(wholes.tolist(), rng.binomial(wholes, rates).tolist(), strict=True):
            share.add(part, whole)
        side = share.side()
        assert side is not None
        held += side["low"] <= 25 <= side["high"]
    assert 0.91 <= held / 400 <= 0.98


def test_shares_merge_exactly_and_nothing_is_no_share() -> None:
    one, two, both = Share(), Share(), Share()
    for at in range(50):
        (one if at < 20 else two).add(at % 3, 3)
        both.add(at % 3, 3)
    one.merge(two)
    assert one == both
    assert Share().side() is None
    assert beside(Share(), both)["difference"] is None
