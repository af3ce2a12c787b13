"""Utility: the words that are scored, equal arms, no leaks, nothing twice, an honest verdict."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import Outcome

from toys import conversation
from userlm_synth.cli.program import Program
from userlm_synth.cli.utility import utility
from userlm_synth.errors import UserError
from userlm_synth.recipe import Training
from userlm_synth.records import record_problems, write_records
from userlm_synth.user_lm import CONTEXT, WORD, ChatFormat, Rendered, load_model, load_tokenizer
from userlm_synth.utility import Dialogues, run_utility, utility_table, verdict
from userlm_synth.utility.arms import equal_arms
from userlm_synth.utility.figures import pair_figures
from userlm_synth.utility.leaks import near_leaks
from userlm_synth.utility.scoring import (
    WordScores,
    _as_text,
    _pieces,
    assistant_turns,
    score_assistant,
    score_base,
)
from userlm_synth.world import make_conversations

OPTIONS = Training(
    learning_rate=1e-2, max_length=512, batch_tokens=1024, micro_batch_tokens=1024, precision="fp32"
)
SETTINGS = [
    "train.learning_rate=1e-2", "train.max_length=512", "train.batch_tokens=1024",
    "train.micro_batch_tokens=1024", "train.precision=fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def sets() -> Dialogues:
    chats = make_conversations(100, 9)
    return Dialogues(chats[:24], chats[24:64], chats[64:80])


@pytest.fixture(scope="module")
def finished(toy_models: Path, sets: Dialogues, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that is done; copy it to change it."""
    out = tmp_path_factory.mktemp("utility") / "out"
    run_utility(str(toy_models / "base"), sets, OPTIONS, out, seeds=(0, 1))
    return out


def command(*arguments: object) -> Outcome:
    """The command as the command line runs it."""
    program = Program("userlm-synth", commands=[utility])
    result = CliRunner().invoke(program, ["utility", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def files(folder: Path, sets: Dialogues) -> list[object]:
    """The options that name the sets."""
    found: list[object] = []
    for name in ("real", "generated", "test"):
        path = folder / f"{name}.jsonl"
        write_records(path, getattr(sets, name), "conversation")
        found += [f"--{name}", path]
    return found


# ---- scores ----------------------------------------------------------------------------------


def by_hand(folder: Path, one: dict[str, Any]) -> tuple[float, int]:
    """The loss of the assistant's words of one conversation, by transformers alone."""
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder))
    form = ChatFormat.probe(tokenizer, "assistant")
    nats, count = 0.0, 0
    for place, message in enumerate(one["messages"]):
        if message["role"] != "assistant":
            continue
        prompt = form.prompt(one["messages"][:place])
        words = tokenizer.encode(message["content"], add_special_tokens=False)
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + words])).logits[0, len(prompt) - 1 : -1]
        nats += float(
            torch.nn.functional.cross_entropy(logits, torch.tensor(words), reduction="sum")
        )
        count += len(words)
    return nats, count


def test_scores_are_those_of_each_reply_after_the_human_history(toy_models, sets):
    folder = toy_models / "assistant_lm"
    some = sets.test[:3]
    scores = score_assistant(str(folder), some, "toy")
    for at, one in enumerate(some):
        nats, count = by_hand(folder, one)
        assert scores.nats[at] == pytest.approx(nats, rel=1e-4)
        assert scores.tokens[at] == count
        assert scores.bytes[at] == sum(len(turn.encode()) for turn in assistant_turns(one))


def test_a_base_is_scored_in_its_best_form(toy_models, sets):
    tokenizer, model = (
        load_tokenizer(str(toy_models / "base")),
        load_model(str(toy_models / "base")),
    )
    short = [{**one, "messages": one["messages"][:2]} for one in sets.test]
    losses = {}
    for form in ("lines", "transcript"):
        total = count = 0.0
        for one in short:
            text = _as_text(tokenizer, one, form)
            with torch.inference_mode():
                logits = model(torch.tensor([text.ids])).logits[0, :-1]
            each = torch.nn.functional.cross_entropy(
                logits, torch.tensor(text.ids[1:]), reduction="none"
            )
            words = torch.tensor(text.kinds[1:]) == WORD
            total, count = total + float(each[words].sum()), count + int(words.sum())
        losses[form] = total / count
    best = score_base(str(toy_models / "base"), short)
    loss = sum(best.nats) / sum(best.tokens)
    assert loss <= min(losses.values()) + 1e-4
    if best.form != "chat":
        assert loss == pytest.approx(losses[best.form], rel=1e-4)


def test_of_plain_text_the_assistant_s_words_alone_are_scored(toy_models):
    tokenizer = load_tokenizer(str(toy_models / "base"))
    chat = conversation("hi", "hello", "a latte", "to go?")
    whole = {"lines": "hi\nhello\na latte\nto go?\n"}
    whole["transcript"] = "User: hi\nAssistant: hello\nUser: a latte\nAssistant: to go?\n"
    for form, text in whole.items():
        shown = _as_text(tokenizer, chat, form)
        assert tokenizer.decode(shown.ids[1:]) == text
        words = [i for i, kind in zip(shown.ids, shown.kinds, strict=True) if kind == WORD]
        assert tokenizer.decode(words).replace(" ", "") == "hellotogo?"


@pytest.mark.parametrize("length", [4, 5, 16, 100])
def test_a_word_of_a_long_text_is_a_target_once_and_has_a_history(length):
    kinds = [CONTEXT, *([WORD, WORD, CONTEXT] * 11)]
    pieces = list(_pieces(Rendered(list(range(34)), kinds, [0] * 34), length))
    targets = [i for one in pieces for i, kind in zip(one.ids, one.kinds, strict=True) if kind]
    assert targets == [i for i, kind in enumerate(kinds) if kind]
    assert all(len(one.ids) <= length for one in pieces)
    for one in pieces[1:]:
        if WORD in one.kinds:
            assert one.kinds.index(WORD) >= length // 2


# ---- arms ------------------------------------------------------------------------------------


def test_all_arms_take_the_steps_of_the_real_dialogues(toy_models, sets):
    named = {"real": sets.real, "generated": sets.generated, "both": [*sets.real, *sets.generated]}
    arms = equal_arms(str(toy_models / "base"), named, OPTIONS)
    real, generated, both = arms
    assert real.about["passes"] == pytest.approx(1.0, abs=0.1)
    assert len({arm.options.max_steps for arm in arms}) == 1
    assert both.about["targets"] == real.about["targets"] + generated.about["targets"]
    assert both.about["passes"] < generated.about["passes"] < real.about["passes"]
    twice = equal_arms(
        str(toy_models / "base"), named, Training(**{**vars(OPTIONS), "epochs": 2.0})
    )
    assert twice[1].options.max_steps == pytest.approx(2 * generated.options.max_steps, abs=1)


def test_every_model_really_took_those_steps(finished):
    result = json.loads((finished / "utility.json").read_text())
    steps = {
        len((finished / f"{arm}-{seed}/training_log.jsonl").read_text().splitlines())
        for arm in ("real", "generated", "both")
        for seed in (0, 1)
    }
    assert steps == {result["arms"][1]["sizes"]["steps"]}
    seen = [model["seen"] for arm in result["arms"][1:] for model in arm["models"]]
    assert max(seen) < 1.3 * min(seen)


def test_the_result_fits_its_schema_and_training_on_real_dialogues_helps(finished):
    result = json.loads((finished / "utility.json").read_text())
    assert not record_problems(result, "utility")
    assert [arm["arm"] for arm in result["arms"]] == ["none", "real", "generated", "both"]
    sizes = [arm["sizes"]["conversations"] for arm in result["arms"][1:]]
    assert sizes == [24, 40, 64]
    pair = next(one for one in result["pairs"] if (one["arm"], one["beside"]) == ("real", "none"))
    assert pair["ratio"] < 1
    assert len({arm["words"] for arm in result["arms"] if arm["form"] == "chat"}) == 1
    assert (finished / "table.md").read_text() == utility_table(result)


# ---- run again -------------------------------------------------------------------------------


def stamps(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/config.json")}


def test_run_again_nothing_is_trained_or_scored_and_the_result_is_the_same(
    toy_models, sets, finished, tmp_path, capsys
):
    out = shutil.copytree(finished, tmp_path / "out")
    before = stamps(out)
    result = run_utility(str(toy_models / "base"), sets, OPTIONS, out, seeds=(0, 1))
    assert stamps(out) == before
    assert result == json.loads((finished / "utility.json").read_text())
    said = capsys.readouterr().err
    assert "scoring" not in said
    assert said.count("up to date") == 7


def test_other_generated_dialogues_leave_the_real_arm_alone(
    toy_models, sets, finished, tmp_path, capsys
):
    out = shutil.copytree(finished, tmp_path / "out")
    before = stamps(out)
    other = Dialogues(sets.real, sets.generated[:30], sets.test)
    run_utility(str(toy_models / "base"), other, OPTIONS, out, seeds=(0,))
    changed = {name for name, one in stamps(out).items() if before[name] != one}
    assert changed == {"generated-0", "both-0"}
    assert "generated-0: made again, because its dialogues" in capsys.readouterr().err


def test_another_test_scores_again_without_training_and_a_deleted_checkpoint_is_trained_again(
    toy_models, sets, finished, tmp_path, capsys
):
    out = shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(out / "real-0")
    base = str(toy_models / "base")
    run_utility(base, sets, OPTIONS, out, seeds=(0,))  # its scores are known
    assert not (out / "real-0").exists()
    before = stamps(out)
    capsys.readouterr()
    other = Dialogues(sets.real, sets.generated, sets.test[:10])
    result = run_utility(base, other, OPTIONS, out, seeds=(0,))
    assert result["test"]["conversations"] == 10
    after = stamps(out)
    assert {name for name, one in after.items() if before.get(name) != one} == {"real-0"}
    assert "real-0: made again, because its checkpoint changed" in capsys.readouterr().err


def test_an_experiment_that_was_killed_between_training_and_scoring_goes_on_with_scoring(
    toy_models, sets, finished, tmp_path
):
    out = shutil.copytree(finished, tmp_path / "out")
    kept = json.loads((out / "both-0.json").read_text())
    empty: dict[str, list[int]] = {key: [] for key in ("ids", "nats", "tokens", "bytes")}
    (out / "both-0.json").write_text(
        json.dumps({**kept, "test": None, "scores": {"form": "", **empty}})
    )
    before = stamps(out)
    result = run_utility(str(toy_models / "base"), sets, OPTIONS, out, seeds=(0, 1))
    assert stamps(out) == before
    assert result == json.loads((finished / "utility.json").read_text())


def test_a_file_that_is_not_whole_is_named(toy_models, sets, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "real-1.json").write_text("{")
    with pytest.raises(UserError, match=r"real-1\.json: is not whole; delete it"):
        run_utility(str(toy_models / "base"), sets, OPTIONS, out, seeds=(0, 1))


# ---- leaks -----------------------------------------------------------------------------------


def test_test_conversations_that_are_trained_on_are_refused_or_dropped(toy_models, sets, tmp_path):
    renamed = {**sets.test[3], "id": "another-name"}
    leaky = Dialogues(sets.real, [*sets.generated, renamed], sets.test)
    given = [*files(tmp_path, leaky), "--base", toy_models / "base", "--out", tmp_path / "out"]
    refused = command(*given, *SETTINGS)
    assert refused.error.startswith("error: 1 of the 16 test conversations are also trained on")
    assert f"{sets.test[3]['id']} (in generated)" in refused.error
    assert not (tmp_path / "out").exists()
    done = command(*given, *SETTINGS, "--drop-leaks", "--seeds", "0", "train.max_steps=2")
    assert done.code == 0, done.err
    test = json.loads((tmp_path / "out/utility.json").read_text())["test"]
    assert (test["conversations"], test["dropped"]) == (15, 1)
    assert "1 test conversations were in a training set" in done.out


def test_equal_turns_openings_and_goals_are_counted():
    test = [
        conversation("hi", "hello", "a latte", "to go?", number=1),
        conversation("good day", "hello", number=2),
        conversation("hi", number=3),
    ]
    known = [
        conversation("hi", "hello", "an espresso", "large?", number=7),
        {**conversation("good day", "to go?", number=8), "intent_id": "toy-2"},
        {**conversation("hm", "large?", number=9), "intent_id": "toy-99"},
        conversation("hi", number=10),
    ]
    assert near_leaks(test, known) == {"turns": 3, "openings": 1, "goals": 1}


# ---- figures ---------------------------------------------------------------------------------


def scores(*losses: float) -> WordScores:
    tokens = [4, 8, 4, 8] * 10
    nats = [losses[at % len(losses)] * count for at, count in enumerate(tokens)]
    names = [str(at) for at in range(len(tokens))]
    return WordScores("chat", names, nats, tokens, [4 * count for count in tokens])


def test_a_difference_counts_only_where_conversations_and_seeds_agree():
    none = [scores(2.0, 3.0)]
    better = [scores(1.0, 2.0), scores(1.01, 2.01), scores(0.99, 1.99)]
    pair = pair_figures("real", "none", {"none": none, "real": better})
    assert pair["ratio"] == pytest.approx(math.exp(-1))
    assert pair["by_seed"] == pytest.approx([math.exp(-1), math.exp(-0.99), math.exp(-1.01)])
    low, high = pair["seed_interval"]  # mean +- 4.303 x 0.01 / sqrt(3)
    assert math.log(low) == pytest.approx(-1 - 4.303 * 0.01 / math.sqrt(3))
    assert math.log(high) == pytest.approx(-1 + 4.303 * 0.01 / math.sqrt(3))
    assert pair["outside"]
    # every conversation agrees, the seeds do not
    unsure = [scores(1.9, 2.9), scores(1.5, 2.5), scores(2.1, 3.1)]
    pair = pair_figures("real", "none", {"none": none, "real": unsure})
    assert pair["interval"][1] < 1
    assert pair["seed_interval"][1] > 1
    assert not pair["outside"]
    # every seed agrees, the conversations do not
    mixed = [scores(1.0, 3.05), scores(1.0, 3.05)]
    mixed = [scores(1.0, 2.0, 3.0, 4.4)] * 2
    pair = pair_figures("real", "none", {"none": [scores(2.0, 3.0, 2.0, 3.0)], "real": mixed})
    assert pair["interval"][0] < 1 < pair["interval"][1]
    assert not pair["outside"]
    alone = pair_figures("real", "none", {"none": none, "real": better[:1]})
    assert alone["seed_interval"] is None
    assert alone["outside"]


def test_the_verdict_says_what_the_figures_show(finished):
    result = json.loads((finished / "utility.json").read_text())

    def said(ratio: float, outside: bool, by_seed: list[float]) -> str:
        pairs = [
            {
                **one, "ratio": ratio, "interval": [ratio - 0.01, ratio + 0.01],
                "by_seed": by_seed, "outside": outside,
            }
            for one in result["pairs"]
        ]  # fmt: skip
        return verdict({**result, "pairs": pairs})[1]

    assert said(0.8, True, [0.8, 0.8]) == (
        "Are they worth as much as real ones? Yes: the perplexity of generated is 0.800 "
        "[0.790, 0.810] times that of real, lower with 2 of 2 seeds."
    )
    assert "No: the perplexity of generated is 1.200" in said(1.2, True, [1.2, 1.2, 1.2])
    assert "higher with 1 of 2 seeds" in said(1.1, False, [1.3, 0.9])
    assert "No difference outside chance" in said(1.1, False, [1.3, 0.9])
    assert "what another seed would do is not known" in said(0.8, True, [0.8])


# ---- the command -----------------------------------------------------------------------------


def dialogue(one: dict[str, Any], goal: dict[str, Any]) -> dict[str, Any]:
    """A conversation as a run's dialogue, made from the intent of `goal`."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return {
        **one, "intent": goal["intent"], "intent_id": goal["id"], "seed": 0,
        "stop_reason": "user_ended", "user_model": "u", "assistant_model": "a", "guardrails": {},
        "end_probabilities": [], "usage": {"user": usage, "assistant": usage}, "recipe_hash": "r",
    }  # fmt: skip


def test_the_command_takes_a_run_s_dialogues_and_tells_that_they_have_the_goals_of_the_test(
    toy_models, sets, tmp_path
):
    made = [dialogue(one, sets.test[at % 16]) for at, one in enumerate(sets.generated)]
    (tmp_path / "dialogues").mkdir()
    for part in (0, 1):
        some = made[20 * part : 20 * (part + 1)]
        write_records(tmp_path / f"dialogues/part-{part:05d}.jsonl", some, "dialogue")
    given = files(tmp_path, sets)
    given[given.index("--generated") + 1] = tmp_path / "dialogues"
    given += ["--base", toy_models / "base", "--out", tmp_path / "out", "--seeds", "3", *SETTINGS]
    done = command(*given, "train.max_steps=2")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "out/utility.json").read_text())
    assert result["seeds"] == [3]
    assert result["arms"][2]["sizes"]["conversations"] == 40
    assert done.out == utility_table(result) + f"{tmp_path / 'out/utility.json'}\n"
    assert "40 dialogues are made from the intents of test conversations" in done.out
    one_file = tmp_path / "all.jsonl"
    write_records(one_file, made, "dialogue")
    given[given.index("--generated") + 1] = one_file
    again = command(*given, "train.max_steps=2")
    assert again.out == done.out
    assert "scoring" not in again.err


def test_what_cannot_be_compared_is_refused_before_any_work(toy_models, sets, tmp_path):
    base, out = toy_models / "base", tmp_path / "out"
    given = files(tmp_path, sets)

    def refused(*more: object, base: object = base) -> list[str]:
        outcome = command(*given, "--base", base, "--out", out, *SETTINGS, *more)
        assert not out.exists()
        return outcome.errors

    (missing,) = refused(base=tmp_path / "nothing")
    assert "no such folder" in missing
    (server,) = refused(base="openai:small@http://localhost:1/v1")
    assert "cannot be trained" in server
    (empty,) = refused("--test", "/dev/null")
    assert (
        empty
        == "error: /dev/null: is empty; it needs at least one conversation, a JSON object a line"
    )
    (empty,) = refused("--generated", "/dev/null")
    assert "is empty" in empty
    users_only = tmp_path / "users.jsonl"
    write_records(users_only, [conversation("hi", number=n) for n in range(3)], "conversation")
    first, second = refused("--test", users_only, "--real", users_only)
    assert first.startswith("error: --real: no assistant speaks in its 3 conversations")
    assert second.startswith("error: --test: no assistant speaks in its 3 conversations")
    (seeds,) = refused("--seeds", "1,1")
    assert seeds == "error: --seeds: [1, 1] are not different whole numbers from 0 on"
    (seeds,) = refused("--seeds", "a,b")
    assert "is no list of whole numbers" in seeds
    (unknown,) = refused("train.epoch=3")
    assert unknown == "error: train.epoch: unknown key; did you mean 'epochs'?"
    (other,) = refused("generate.num=3")
    assert other == "error: generate.num=3: is no training setting, such as train.epochs=2"
