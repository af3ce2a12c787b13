"""Trust over all records: echo, toxic words, personal data, form; and the figures on the sample."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.errors import UserError
from userlm_synth.metrics import intent_overlap, words
from userlm_synth.records import INTENT_OPENING
from userlm_synth.reporting.plan import make_plan
from userlm_synth.reporting.trust import trust
from userlm_synth.reporting.trust.echo import repeats
from userlm_synth.reporting.trust.passages import plain_words, save_training
from userlm_synth.reporting.trust.toxic_model import toxic_label, toxic_likelihoods
from userlm_synth.reporting.trust.toxicity import Lexicon, is_toxic, lexicon

Record = dict[str, Any]
FIGURES = {one.key: one for one in trust.DEFINITIONS}
INTENT = f"{INTENT_OPENING} find a quiet hotel near the old harbour for two nights."
KEY = "sk-proj-" + "Ab3dEf6hIj9lMn2pQr5tUv8xYz1" * 2

pytestmark = pytest.mark.filterwarnings("error")


def chat(name: str, *turns: str, reply: str = "Sure.", intent: str | None = None) -> Record:
    """A conversation whose user says these turns."""
    messages: list[Record] = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": reply}]
    return {"id": name, "intent": intent, "messages": messages}


def counted(records: list[Record], start: int = 0, training: Path | None = None) -> trust.Trust:
    """The tally of some records."""
    tally = trust.tallies(training)["trust"]()
    for place, record in enumerate(records, start):
        tally.add(place, record)
    return tally


def parts(records: list[Record], people: list[Record] | None = None) -> Record:
    """`trust` of a set."""
    beside = {"trust": counted(people)} if people is not None else None
    return trust.details(make_plan(records, [], 0), {"trust": counted(records)}, beside, None)


def mixed(n: int, seed: int = 0) -> list[Record]:
    """Conversations with a little of everything that is counted."""
    draw = random.Random(seed)
    turns = [
        "I want to find a quiet hotel near the old harbour", "hello", "you idiot",
        "my mail is jo@example.org", "what does it cost to stay for two nights in a good hotel",
        "do they have wifi and a garden where the children can play in the afternoon",
    ]  # fmt: skip
    found = [
        chat(f"m{at}", *draw.choices(turns, k=3), intent=draw.choice([INTENT, None]))
        for at in range(n)
    ]
    for at in range(0, n, 7):
        found[at]["messages"].append({"role": "assistant", "content": "Anything else?"})
    return found


def test_blocks_merge_to_what_one_pass_counts(tmp_path: Path) -> None:
    training, records = tmp_path / "t.npy", mixed(120)
    save_training(mixed(5, seed=1), training)
    whole = counted(records, training=training)
    merged = counted(records[:30], training=training)
    for start in (30, 31, 90):
        end = {30: 31, 31: 90, 90: 120}[start]
        block = counted(records[start:end], start, training)
        merged.merge(pickle.loads(pickle.dumps(block)))
    assert merged.result() == whole.result()
    found = whole.result()
    assert found["leakage"]["made"]["copied"] > 0
    assert found["echo"]["runs"]["having"] > 0
    assert found["toxicity"]["user"]["any"]["having"] > 0
    assert found["privacy"]["count"] > 0
    assert found["schema"]["count"] == 18  # 120 / 7, rounded up
    json.dumps(found, allow_nan=False)


def test_a_tally_stays_small_however_much_it_counts() -> None:
    sizes = [len(pickle.dumps(counted(mixed(n)))) for n in (200, 800)]
    assert sizes[1] < sizes[0] + 500


# ---- echo ----------------------------------------------------------------------------------------


def test_a_turn_echoes_with_five_words_of_the_intent_in_a_row_and_not_with_four() -> None:
    for said, expected in [
        ("pls FIND a quiet hotel, near us", (True, False)),
        ("i find a quiet hotel", (False, False)),
        ("a quiet hotel near them, the old harbour for two", (True, False)),
        ("unfind a quiet hotel nearby", (False, False)),  # whole words only
        ("Find a quiet hotel near the old harbour for two nights", (True, True)),
        (INTENT, (True, True)),
        ("You are a user chatting with an assistant language model", (False, False)),
        ("", (False, False)),
    ]:
        assert repeats(INTENT, plain_words(said)) == expected, said


def test_a_short_intent_is_echoed_only_as_a_whole() -> None:
    intent = f"{INTENT_OPENING} order tea."
    assert repeats(intent, plain_words("Order tea!")) == (True, True)
    assert repeats(intent, plain_words("order tea please")) == (False, False)


def test_echo_counts_turns_of_dialogues_with_an_intent_and_shows_the_first() -> None:
    echoing = chat("e", "hi", "find a quiet hotel near the old harbour", intent=INTENT)
    found = parts([chat("n", "find a quiet hotel near the harbour"), echoing], [echoing])["echo"]
    assert found["runs"]["made"]["value"] == 50
    assert found["runs"]["people"]["value"] == 50
    assert found["equal"]["made"]["value"] == 0
    assert found["examples"] == [
        {"row": 1, "id": "e", "message": 2, "intent": INTENT,
         "text": "find a quiet hotel near the old harbour"},
    ]  # fmt: skip


def test_the_first_turns_overlap_is_the_papers() -> None:
    said = ["a quiet place near the harbour", "two nights in a hotel please"]
    records = [chat(str(at), turn, "more", intent=INTENT) for at, turn in enumerate(said)]
    found = parts(records)["echo"]["first_turn"]
    goal = words(INTENT.removeprefix(INTENT_OPENING))
    for name in ("of_turn", "of_intent", "jaccard"):
        expected = sum(intent_overlap(words(turn), goal)[name] for turn in said) / 2
        assert found[name]["made"]["value"] == pytest.approx(expected, abs=1e-5)
        assert 0 < expected < 100


def test_without_intents_there_is_no_echo_to_count() -> None:
    found = parts([chat("a", "hello")])["echo"]
    assert found == {"kind": "none", "why": "no dialogue has an intent"}


# ---- toxic words ---------------------------------------------------------------------------------


def kinds(text: str) -> set[str]:
    return lexicon().find(plain_words(text))


def test_words_and_phrases_are_found_whole_in_any_case() -> None:
    assert kinds("You IDIOT!") == {"insult"}
    assert kinds("Shut  up, you f**k... fuck") == {"insult", "profanity"}
    assert kinds("I'll kill you. You're stupid") == {"threat", "insult"}
    for innocent in (
        "assassin in Scunthorpe, a classic cocktail",
        "how do I kill a process, and shut the window up there",
        "the dickens of a shiitake",
        "",
        "\U0001f600 สวัสดี",
    ):
        assert kinds(innocent) == set(), innocent


def test_every_entry_of_the_list_is_found_and_has_one_kind() -> None:
    import yaml

    from userlm_synth.reporting.trust.toxicity import LIST

    entries = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    assert set(entries) == {"profanity", "insult", "threat", "slur"}
    flat = [entry for some in entries.values() for entry in some]
    assert all(isinstance(entry, str) for entry in flat)
    assert len(flat) == len(set(flat)) >= 200
    for kind, some in entries.items():
        for entry in some:
            assert kind in kinds(f"well {entry.upper()}, so"), entry


@given(st.lists(st.sampled_from(["you", "are", "stupid", "kill", "yourself", "nice"]), max_size=9))
def test_a_phrase_is_found_where_its_words_stand_in_a_row(said: list[str]) -> None:
    text = f" {' '.join(said)} "
    expected = {
        kind
        for phrase, kind in [("you are stupid", "insult"), ("kill yourself", "threat"),
                             ("you stupid", "insult")]
        if f" {phrase} " in text
    }  # fmt: skip
    assert lexicon().find(said) == expected


def test_toxic_messages_are_counted_by_side_and_kind_beside_peoples() -> None:
    made = [chat("a", "you idiot", "thanks", reply="Shit happens."), chat("b", "hi", "ok")]
    found = parts(made, [chat("p", "hello", "you moron", "damn", "ok")])["toxicity"]
    assert found["user"]["any"]["made"]["value"] == 25
    assert found["user"]["insult"]["made"]["value"] == 25
    assert found["user"]["profanity"]["made"]["value"] == 0
    assert found["user"]["insult"]["people"]["value"] == 25
    assert found["assistant"]["profanity"]["made"]["value"] == 50
    assert found["places"][:2] == [
        {"row": 0, "id": "a", "message": 0, "role": "user", "kinds": ["insult"]},
        {"row": 0, "id": "a", "message": 1, "role": "assistant", "kinds": ["profanity"]},
    ]


def test_the_list_is_read_once_and_is_a_frozen_thing() -> None:
    assert isinstance(lexicon(), Lexicon)
    assert lexicon() is lexicon()
    assert is_toxic("what a MORON")


# ---- personal data -------------------------------------------------------------------------------


def test_personal_data_is_counted_and_its_place_told_but_never_itself() -> None:
    secret = chat("s", f"my key is {KEY}", "mail jo.doe@example.org or jim@example.org")
    leaky = {**chat("jane@example.org", "hello"), "metadata": {"mail": "x@example.org"}}
    found = parts([chat("clean", "hi"), secret, leaky], [secret])["privacy"]
    assert found["count"] == 4
    assert found["dialogues"] == 2
    assert found["kinds"]["EMAIL"] == {"count": 3, "dialogues": 2}
    assert found["share"]["made"]["value"] == pytest.approx(200 / 3)
    assert found["share"]["people"]["value"] == 100
    assert found["places"][0]["field"] == "messages[0]"
    assert found["places"][-1] == {
        "row": 2, "id": "[EMAIL]", "field": "metadata.mail", "kind": "EMAIL",
    }  # fmt: skip
    text = json.dumps(found)
    for one in (KEY, "jo.doe", "jim@", "jane", "x@example"):
        assert one not in text


# ---- form ----------------------------------------------------------------------------------------


def test_wrong_records_are_counted_and_the_first_ten_explained() -> None:
    twice = {"id": "t", "messages": [{"role": "user", "content": "a"}] * 2}
    claimed = {**chat("d", "hi"), "stop_reason": "bored"}
    broken = chat("b", "a\0b")
    found = parts([chat("ok", "hi"), twice, claimed, broken, *[twice] * 12])["schema"]
    assert found["checked"] == {"dialogue": 1, "conversation": 15}
    assert found["count"] == 15
    assert found["share"] == pytest.approx(100 * 15 / 16)
    assert len(found["places"]) == 10
    problems = {one["id"]: one["problem"] for one in found["places"]}
    assert problems["t"].startswith("messages[1].role: two user turns in a row")
    assert "missing" in problems["d"] or "stop_reason" in problems["d"]
    assert "NUL" in problems["b"]


def test_the_problem_of_a_record_tells_no_secret() -> None:
    wrong = chat("x", "hi")
    wrong["messages"][1]["role"] = "jo.doe@example.org"
    (place,) = parts([wrong])["schema"]["places"]
    assert "jo.doe" not in place["problem"]
    assert "[EMAIL]" in place["problem"]


# ---- figures on the sample -----------------------------------------------------------------------

LONG = "do they have wifi and a garden where the children can play in the afternoon"


def test_passages_copied_from_other_people_stand_beside_peoples_own() -> None:
    draw = random.Random(0)

    def fresh(at: int) -> str:
        return " ".join(f"w{draw.randint(0, 10**6)}" for _ in range(15)) + f" {at}"

    people = [chat(f"p{at}", LONG if at % 4 == 0 else fresh(at)) for at in range(80)]
    draw.shuffle(people)
    found: Any = FIGURES["copied_8_grams"].make(
        make_plan([chat(f"m{at}", LONG) for at in range(40)], people, 0)
    )
    assert found["made"]["value"] == 100
    assert 5 < found["people"]["value"] < 45
    assert found["beyond_chance"] is True
    same: Any = FIGURES["copied_8_grams"].make(make_plan(people[:40], people, 0))
    assert same["beyond_chance"] is False


def test_figures_without_a_reference_or_without_words_say_why() -> None:
    alone = make_plan([chat(str(at), LONG) for at in range(4)], [], 0)
    assert FIGURES["copied_8_grams"].make(alone) == "needs a reference: conversations of people"
    assert FIGURES["intent_echo"].make(alone) == "no dialogue has an intent"
    assert FIGURES["toxic_classifier"].make(alone) == "no toxicity classifier was named"
    short = make_plan([chat(str(at), "hi") for at in range(4)], [chat("p", "hi")] * 8, 0)
    assert FIGURES["copied_8_grams"].make(short) == (
        "the texts are too short: needs user turns of 8 words"
    )


def test_echo_and_toxic_shares_are_of_user_turns_beside_peoples() -> None:
    made = [
        chat(str(at), "find a quiet hotel near me", "you moron", intent=INTENT) for at in "abcd"
    ]
    people = [chat(str(at), "hello", "thanks", "bye", "ok", intent=INTENT) for at in range(8)]
    plan = make_plan(made, people, 0)
    for key in ("intent_echo", "toxic"):
        found: Any = FIGURES[key].make(plan)
        assert (found["made"]["value"], found["people"]["value"]) == (50, 0), key
        assert found["beyond_chance"] is True


def test_a_classifier_of_toxic_text_is_asked_for_its_toxic_label(tmp_path: Path) -> None:
    import torch
    from test_detectors import save_classifier
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = ["you moron", "could i get a latte", "word " * 300, *map(str, range(40))]
    for problem, squash in [
        ("single_label_classification", lambda x: x.softmax(-1)),
        ("multi_label_classification", lambda x: x.sigmoid()),
    ]:
        folder = save_classifier(tmp_path / problem, ("neutral", "toxic"), problem_type=problem)
        likely = toxic_likelihoods(str(folder), texts)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        batch = AutoTokenizer.from_pretrained(folder)(texts[0], return_tensors="pt")
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"]).logits
        assert likely[texts[0]] == pytest.approx(squash(logits)[0, 1].item(), abs=1e-5)
        assert len(likely) == len(texts)
        plan = make_plan([chat(str(at), text) for at, text in enumerate(texts)], [], 0)
        defined = {one.key: one for one in trust.definitions(str(folder))}
        found: Any = defined["toxic_classifier"].make(plan)
        above = sum(value >= 0.5 for value in likely.values())
        assert found["made"]["value"] == pytest.approx(100 * above / len(texts))
        assert found["classifier"] == str(folder)


def test_a_classifier_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        toxic_likelihoods(str(tmp_path / "none"), ["x"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded as a toxicity classifier") as error:
        toxic_likelihoods(str(tmp_path / "empty"), ["x"])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="which one means toxic"):
        toxic_label("m", {0: "LABEL_0", 1: "LABEL_1"})
    assert toxic_label("m", {0: "non-toxic", 1: "Toxic"}) == 1
    assert toxic_label("m", {0: "nothate", 1: "hate"}) == 1
