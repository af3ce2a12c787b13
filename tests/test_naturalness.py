"""How human first turns look: which texts are taken, who judges whom, and two sets of texts."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from userlm_synth.errors import UserError
from userlm_synth.evaluation.naturalness import NO_CONTRAST, naturalness_of
from userlm_synth.naturalness import classifier
from userlm_synth.naturalness.texts import FEWEST, choose, read_contrast, tokens
from userlm_synth.recipe.sections import Naturalness
from userlm_synth.records import load_schema

DRINKS = [
    "latte",
    "mocha",
    "tea",
    "steamer",
    "espresso",
    "cocoa",
    "chai",
    "juice",
    "water",
    "lemonade",
]
WISHES = ["small", "large", "iced", "hot", "sweet", "plain", "strong", "weak", "double", "decaf"]
OPENINGS = ["could i get", "i want", "hi, can you make", "give me", "uh one", "do you have"]


def turn(number: int) -> str:
    """A lower-case request that hardly anybody else makes."""
    draw = random.Random(number)
    words = draw.sample(WISHES, 2) + draw.sample(DRINKS, 2)
    return f"{draw.choice(OPENINGS)} {' '.join(words)} for {draw.randrange(100_000)}"


def whispers(n: int, first: int = 0) -> dict[str, str]:
    return {str(at): turn(first + at) for at in range(n)}


def shouts(n: int, first: int = 10_000) -> dict[str, str]:
    return {name: text.upper() + "!" for name, text in whispers(n, first).items()}


def measure(rows, *, limit=500, seed=0, prompted=("gpt",), **settings):
    kinds = {label: "prompted" if label in prompted else "user_lm" for label in rows}
    return naturalness_of(
        rows, kinds, Naturalness(**settings), limit=limit, samples=100, seed=seed, kept=Path("none")
    )


def corpus_of(*sources, folds=5, seed=0):
    return classifier.make_corpus([list(one.items()) for one in sources], folds=folds, seed=seed)


# ---- which texts -------------------------------------------------------------------------------


def test_tokens_are_words_and_single_marks_of_punctuation():
    assert tokens("Don't, please... 2 cups!") == 4 + 6
    assert tokens("नमस्ते दुनिया") == 2  # vowel signs are no punctuation


def test_all_rows_have_as_many_texts_as_the_smallest_and_of_the_same_ids():
    rows = {"human": whispers(60), "a": whispers(45, 100), "b": {**whispers(40), "own": "hello"}}
    chosen = choose(rows, "short", limit=1000, seed=0).rows
    ids = set(chosen["human"])
    assert {len(row) for row in chosen.values()} == {41}
    assert ids == set(chosen["a"])
    assert set(chosen["b"]) == {str(at) for at in range(40)} | {"own"}
    assert {str(at) for at in range(40)} < ids


def test_the_limit_holds_and_the_seed_alone_says_which_texts_are_drawn():
    rows = {"human": whispers(80), "a": whispers(80, 100)}
    turned = {label: dict(reversed(row.items())) for label, row in reversed(rows.items())}
    one, again, other = (
        choose(some, "short", limit=30, seed=seed).rows
        for some, seed in ((rows, 1), (turned, 1), (rows, 2))
    )
    assert one == again
    assert {len(row) for row in one.values()} == {30}
    assert set(one["human"]) == set(one["a"]) != set(other["a"])


def test_long_texts_have_50_to_200_tokens_and_auto_takes_them_where_each_row_has_30():
    long = {str(at): f"word{at} " * (50 + at * 5) for at in range(31)}  # 50 to 200 tokens
    mixed = {**long, **{f"s{at}": "w " * 49 for at in range(10)}, "l": "w " * 201}
    assert choose({"human": mixed}, "long", limit=99, seed=0).rows["human"].keys() == long.keys()
    both = {"human": mixed, "a": {**mixed, "0": "short", "1": "short"}}  # 29 long ones
    empty = {"human": mixed, "none": dict.fromkeys(mixed, " ")}
    assert choose(empty, "auto", limit=99, seed=0).kind == "long"
    assert choose({"human": mixed}, "auto", limit=99, seed=0).kind == "long"
    auto = choose(both, "auto", limit=99, seed=0)
    assert (auto.kind, len(auto.rows["human"])) == ("short", 42)
    assert choose(both, "long", limit=99, seed=0).kind == "long"


def test_a_row_with_too_few_texts_is_left_out_and_does_not_shrink_the_others():
    rows = {"human": whispers(50), "a": {**whispers(19), "empty": " \n"}}
    choice = choose(rows, "short", limit=99, seed=0)
    assert len(choice.rows["human"]) == 50
    assert choice.missing == {"a": "needs 20 first turns that are not empty; there are 19"}


def test_fewer_first_turns_by_the_recipe_than_are_needed_is_said():
    figures = measure({"human": whispers(50)}, limit=4)
    assert figures["human"] == ("needs 20 first turns a row; evaluate.first_turns is 4", {})


def test_a_contrast_is_texts_or_first_user_turns_grouped_by_their_intent(tmp_path, write_jsonl):
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    path = write_jsonl(tmp_path / "c.jsonl", [
        {"text": "first"}, {"id": "c1", "messages": messages},
        {"id": "d1", "intent_id": "c1", "messages": messages}, {"text": "  "},
    ])  # fmt: skip
    assert read_contrast(path) == [("c.jsonl:1", "first"), ("c1", "one"), ("c1", "one")]


def test_lines_without_a_text_are_named(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": "fine"}, {"txt": "a"}, 3, {"messages": []}])
    with pytest.raises(UserError) as error:
        read_contrast(path)
    lines = str(error.value).splitlines()
    assert [line.partition(": needs `text`")[0] for line in lines] == [
        f"{path}:{number}" for number in (2, 3, 4)
    ]


def test_a_contrast_without_texts_is_refused(tmp_path, write_jsonl):
    with pytest.raises(UserError, match="is empty"):
        read_contrast(write_jsonl(tmp_path / "c.jsonl", [{"text": ""}]))


# ---- the figure --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    """People who whisper; an assistant that shouts; a model like people, one like the assistant."""
    rows = {
        "human": whispers(120),
        "gpt": shouts(120),
        "good": whispers(120, 5000),
        "bad": shouts(120, 20_000),
    }
    return rows, measure(rows)


def test_whispers_are_told_from_shouts(table):
    figures = {label: figure for label, (figure, _) in table[1].items()}
    assert all(one["auroc"]["value"] > 95 for one in figures.values())
    assert figures["human"]["value"] > 80 > 20 > figures["gpt"]["value"]
    assert figures["good"]["value"] > 80 > 20 > figures["bad"]["value"]
    assert figures["bad"]["two_sample"]["auroc"]["value"] > 95
    assert figures["bad"]["two_sample"]["p"] == pytest.approx(1 / 1001)


def test_two_samples_of_one_kind_are_not_told_apart_and_neither_are_halves_of_people(table):
    for label in ("good", "human"):
        test = table[1][label][0]["two_sample"]
        low, high = test["auroc"]["interval"]
        assert low < 50 < high, label
        assert test["p"] > 0.01, label


def test_a_figure_is_as_the_schema_says_and_the_mean_of_its_units(table):
    rows, figures = table
    schema = load_schema("evaluation")
    one = {"$ref": "#/$defs/naturalness", "$defs": schema["$defs"]}
    for label, (figure, units) in figures.items():
        jsonschema.validate(figure, one)
        named = units["naturalness"]
        assert set(named.ids) == set(rows[label])
        assert figure["value"] == pytest.approx(100 * float(np.mean(named.top)))
        assert (figure["by"], figure["contrast"], figure["n"]) == ("classifier", "gpt", 120)


def test_the_seed_fixes_every_figure():
    rows = {"human": whispers(40), "gpt": shouts(40), "a": whispers(40, 300)}
    one, again, other = (measure(rows, folds=2, seed=seed) for seed in (0, 0, 1))
    for label, (figure, units) in one.items():
        assert again[label][0] == figure
        assert again[label][1]["naturalness"].plain() == units["naturalness"].plain()
    assert other["a"][0] != one["a"][0]


def test_a_simulator_that_repeats_people_word_for_word_looks_exactly_like_them():
    people = whispers(60)
    figures = measure({"human": people, "parrot": dict(people), "gpt": shouts(60)})
    assert figures["parrot"][0]["value"] == figures["human"][0]["value"]
    assert figures["parrot"][0]["two_sample"] == {
        "auroc": {"value": 50.0, "interval": [50.0, 50.0], "n": 96},  # all folds but the first
        "p": 1.0,
    }


def test_without_a_contrast_there_is_no_figure():
    figures = measure({"human": whispers(30), "a": whispers(30, 100)})
    assert figures == {"human": (NO_CONTRAST, {}), "a": (NO_CONTRAST, {})}


def test_a_contrast_that_is_too_small_is_told_with_its_numbers():
    few = "needs 20 first turns that are not empty; there are 7"
    figures = measure({"human": whispers(30), "gpt": shouts(7)})
    assert figures["gpt"][0] == few
    assert figures["human"][0] == f"the contrast is too small (gpt: {few})"


def test_without_people_there_is_no_figure():
    figures = measure({"human": whispers(5), "gpt": shouts(30)})
    assert figures["gpt"][0].startswith("people's first turns: needs 20")


def test_a_file_is_the_contrast_instead_of_prompted_models(tmp_path, write_jsonl):
    texts = [{"text": text} for text in shouts(50, 777).values()]
    path = write_jsonl(tmp_path / "machines.jsonl", texts)
    rows = {"human": whispers(60), "gpt": whispers(60, 900)}
    figure = measure(rows, contrast=str(path))["gpt"][0]
    assert figure["contrast"] == "machines.jsonl"
    assert figure["value"] > 80
    assert figure["auroc"]["n"] == 110
    small = write_jsonl(tmp_path / "few.jsonl", texts[:3])
    assert measure(rows, contrast=str(small))["gpt"][0] == (
        "the contrast few.jsonl needs 20 texts that are not empty; there are 3"
    )


def test_texts_of_a_file_come_first_where_they_are_about_what_people_spoke_of(
    tmp_path, write_jsonl
):
    """Of 130 texts, 30 whisper, of people's own intents: those are taken, and none of the rest."""
    people = whispers(30)
    texts = [{"id": f"x{at}", "text": text} for at, text in enumerate(shouts(100).values())]
    texts += [{"id": name, "text": text} for name, text in whispers(30, 400).items()]
    random.Random(0).shuffle(texts)
    path = write_jsonl(tmp_path / "c.jsonl", texts)
    figure = measure({"human": people}, limit=30, contrast=str(path))["human"][0]
    assert figure["auroc"]["n"] == 60
    assert figure["auroc"]["value"] < 80


def test_texts_that_are_all_the_same_teach_nothing():
    same = dict.fromkeys(whispers(40), "hello")
    figures = measure({"human": same, "gpt": dict.fromkeys(same, "Hello!")})
    assert "nothing to learn from" in figures["human"][0]


# ---- who judges whom ---------------------------------------------------------------------------

rows_of_texts = st.dictionaries(
    st.integers(0, 12).map(str), st.sampled_from(["a", "A.", "b", "c d", "e", "f g h"]), min_size=1
)


@given(rows_of_texts, rows_of_texts, st.integers(2, 6), st.booleans(), st.integers(0, 3))
@examples(max_examples=30)
def test_no_conversation_and_no_equal_text_is_both_learnt_from_and_judged(
    one, other, folds, forward, seed
):
    corpus, (mine, theirs) = corpus_of(one, other, folds=folds, seed=seed)
    both = np.concatenate([mine, theirs])
    texts = [classifier.plain(text) for text in [*one.values(), *other.values()]]
    names = [*one, *other]
    judged = []
    for fold, (learn, judge) in enumerate(classifier.splits(corpus, both, both, forward=forward)):
        judged += judge.tolist()
        assert not {names[at] for at in learn} & {names[at] for at in judge}
        assert not {texts[at] for at in learn} & {texts[at] for at in judge}
        if forward:
            assert all(corpus.fold[at] < fold for at in learn)
    assert sorted(judged) == both.tolist()


def test_folds_hold_equally_many_of_each_source():
    corpus, places = corpus_of(whispers(50), {f"x{at}": turn(at) for at in range(33)}, folds=5)
    for place in places:
        counts = np.bincount(corpus.fold[place], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_a_text_that_is_repeated_elsewhere_is_not_recognised():
    """Nonsense, said five times by one side each: a model that saw a copy would know it."""
    draw = random.Random(0)
    sides = [
        {
            f"{side}{copy}{at}": text
            for at in range(30)
            for text in ["".join(draw.choices("abcdefgh", k=12))]
            for copy in range(5)
        }
        for side in "xy"
    ]
    corpus, (mine, theirs) = corpus_of(*sides)
    scores = classifier.held_out(corpus, mine, theirs, np.concatenate([mine, theirs]))
    found = classifier.auroc(corpus, scores, mine, theirs, samples=10, seed=0)
    assert 30 < found["value"] < 70


# ---- figures of two sets -----------------------------------------------------------------------


def scored(mine, theirs, folds=1, paired=False):
    """A corpus of scores alone."""
    n, m = len(mine), len(theirs)
    groups = np.concatenate([np.arange(n), np.arange(m) if paired else n + np.arange(m)])
    corpus = classifier.Corpus(None, 0, groups, groups, groups % folds, folds)
    return corpus, np.array([*mine, *theirs], float), np.arange(n), n + np.arange(m)


def test_auroc_is_the_share_of_ordered_pairs_as_sklearn_has_it():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    mine, theirs = rng.integers(3, 12, 40) / 10, rng.integers(0, 9, 60) / 10  # with ties
    found = classifier.auroc(*scored(mine, theirs), samples=200, seed=0)
    truth = 100 * roc_auc_score([1] * 40 + [0] * 60, [*mine, *theirs])
    assert found["value"] == pytest.approx(truth)
    assert found["interval"][0] < truth < found["interval"][1]
    assert found["n"] == 100


def test_scores_of_two_folds_are_not_compared():
    """Both folds are in order, though the second's model gives everybody more."""
    found = classifier.auroc(
        *scored([0.2, 0.9], [0.1, 0.8], folds=2, paired=True), samples=20, seed=0
    )
    assert found["value"] == 100.0


def test_the_interval_of_auroc_has_the_width_that_delong_gives():
    rng = np.random.default_rng(1)
    mine, theirs = rng.normal(0.5, 1, 300), rng.normal(0, 1, 200)
    low, high = classifier.auroc(*scored(mine, theirs), samples=2000, seed=0)["interval"]
    ordered = mine[:, None] > theirs[None, :]
    error = np.sqrt(ordered.mean(1).var() / 300 + ordered.mean(0).var() / 200)
    assert (high - low) / (2 * 1.96 * 100 * error) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("paired", [False, True])
def test_p_is_small_for_order_large_for_disorder_and_even_for_chance(paired):
    rng = np.random.default_rng(2)
    high, low = 1 + rng.random(30), rng.random(30)
    assert classifier.permutation_p(*scored(high, low, 3, paired), seed=0) == 1 / 1001
    assert classifier.permutation_p(*scored(low, high, 3, paired), seed=0) == 1.0
    chances = [
        classifier.permutation_p(*scored(rng.random(30), rng.random(30), 3, paired), seed=seed)
        for seed in range(200)
    ]
    assert 0.4 < np.mean(chances) < 0.6
    assert 0.2 < np.mean(np.array(chances) < 0.3) < 0.4


def test_of_three_pairs_in_order_one_exchange_in_eight_is_as_good():
    p = classifier.permutation_p(*scored([4, 5, 6], [1, 2, 3], paired=True), seed=0)
    assert p == pytest.approx(1 / 8, abs=0.03)
    p = classifier.permutation_p(*scored([4, 5, 6], [1, 2, 3]), seed=0)  # 3 labels of 6
    assert p == pytest.approx(1 / 20, abs=0.02)


def test_pairs_show_a_small_steady_difference_that_shuffled_labels_would_hide():
    base = np.random.default_rng(3).normal(0, 10, 40)
    steady = scored(base + 0.5, base, folds=2, paired=True)
    apart = scored(base + 0.5, base, folds=2, paired=False)
    assert classifier.permutation_p(*steady, seed=0) < 0.01
    assert classifier.permutation_p(*apart, seed=0) > 0.2


def test_people_of_real_conversations_are_not_told_from_each_other():
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with coffee.jsonl.gz")
    with gzip.open(Path(folder) / "coffee.jsonl.gz") as file:
        records = [json.loads(line) for line, _ in zip(file, range(600), strict=False)]
    rows = {"human": {one["id"]: one["messages"][0]["content"] for one in records}}
    rows["gpt"] = {name: f"{text.upper()}!" for name, text in rows["human"].items()}
    figures = measure(rows, limit=600)
    assert figures["human"][0]["two_sample"]["p"] > 0.001
    assert figures["gpt"][0]["two_sample"]["auroc"]["value"] > 95
    assert figures["human"][0]["n"] >= FEWEST
