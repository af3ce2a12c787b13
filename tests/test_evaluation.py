"""The whole of `evaluate`: a table of simulators beside people, from conversations to files."""

from __future__ import annotations

import json
import signal
import textwrap
from pathlib import Path

import pytest
import warm
from http_toys import chat, toy

from toys import conversation, trained_user_lm
from userlm_synth.errors import UserError
from userlm_synth.evaluation import evaluate
from userlm_synth.evaluation.named import evaluate_named, labels
from userlm_synth.evaluation.rows import Held
from userlm_synth.recipe import Evaluate, Judge, Naturalness, Simulator
from userlm_synth.records import END_TOKEN, record_problems, write_records

SIZES = {"bootstrap": 100, "first_turns": 40, "max_tokens": 8}
CHATS = [
    conversation(f"could i get {n} small lattes please", "to go?", "to go, thanks", "ok", number=n)
    for n in range(22)
]
CHATS += [conversation("hi", "hello", "a latte", number=22), conversation("bye", "ok", number=23)]
CHOICES = {
    "question": {
        "stem": "What do you drink?",
        "choices": [{"label": "AB"[at], "text": text} for at, text in enumerate(("latte", "sand"))],
    }
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    trained_user_lm(root, CHATS[:4], epochs=20)
    write_records(root / "test.jsonl", CHATS, "conversation")
    script = ["i want a coffee", "the answer is latte", END_TOKEN]
    (root / "script.json").write_text(json.dumps(script))
    (root / "quiz.jsonl").write_text(json.dumps(CHOICES) + "\n")
    other = [
        {"text": f"As an assistant I would like {n} of your finest lattes."} for n in range(24)
    ]
    (root / "contrast.jsonl").write_text("\n".join(map(json.dumps, other)))
    (root / "open.jsonl").write_text('{"question": "who sang it?"}\n{"question": "why?"}\n')
    return root


def judged(path, body, number):
    """A judge that takes everything for a refusal."""
    return chat("REFUSED")


@pytest.fixture(scope="module")
def table(folder):
    """Four simulators of every kind on one file; the folder and the evaluation."""
    simulators = {
        "base": Simulator(str(folder / "base")),
        "user_lm": Simulator(str(folder / "user_lm")),
        "scripted": Simulator(f"scripted:{folder / 'script.json'}"),
        "prompted": Simulator(f"prompted:scripted:{folder / 'script.json'}"),
    }
    with toy(judged) as server:
        settings = Evaluate(
            **SIZES, multiple_choice=str(folder / "quiz.jsonl"),
            questions=str(folder / "open.jsonl"), judge=Judge(f"openai:tiny@{server.url}"),
            naturalness=Naturalness(contrast=str(folder / "contrast.jsonl")),
        )  # fmt: skip
        found = evaluate(simulators, [folder / "test.jsonl"], folder / "out", settings)
        asked = len(server.requests)
        again = evaluate(simulators, [folder / "test.jsonl"], folder / "out", settings)
        assert len(server.requests) == asked
    assert again == found
    return {row["label"]: row for row in found["results"]}, folder / "out", found


def test_the_evaluation_is_valid_and_on_the_disk_with_its_tables_and_page(table):
    _, out, found = table
    assert not record_problems(found, "evaluation")
    assert json.loads((out / "evaluation.json").read_text()) == found
    for name in ("tables.md", "tables.tex", "index.html"):
        text = (out / name).read_text()
        assert all(label in text for label in ("scripted", "human"))


def test_people_are_the_last_row_and_have_no_perplexity(table):
    rows, _, found = table
    assert found["results"][-1]["label"] == "human"
    assert rows["human"]["perplexity"] == {}
    assert rows["human"]["first_turn_diversity"]["n"] == 24


def test_every_row_has_the_same_n(table):
    rows, _, _ = table
    spoken = [row for label, row in rows.items() if label != "base"]
    for name in ("first_turn_diversity", "naturalness"):
        assert len({row[name]["n"] for row in spoken}) == 1
    assert {row["intent_decomposition"]["of_turn"]["n"] for row in spoken} == {2 * 23 + 1}
    left = [row["termination"] for row in spoken if row["label"] != "human"]
    assert {(one["n"], one["ends"]) for one in left} == {(22 * 2 + 1 + 1, 23)}


def test_a_base_is_scored_in_three_forms_and_says_why_it_has_nothing_else(table):
    rows, _, _ = table
    base = rows["base"]
    assert base["kind"] == "base"
    assert len(base["other_forms"]) == 4
    best = base["perplexity"]["with_intent"]["value"]
    assert all(one["value"] >= best for one in base["other_forms"] if one["intent"])
    assert "cannot take the user's turns" in base["not_measured"]["first_turn_diversity"]
    assert base["termination"] is None
    assert base["not_measured"]["termination"]


def test_a_user_lm_leaves_by_its_probability_and_a_script_by_what_it_says(table):
    rows, _, _ = table
    assert rows["user_lm"]["termination"]["by"] == "probability"
    scripted = rows["scripted"]["termination"]
    # it leaves before a third turn: 22 conversations end there, and one of them is no end
    assert scripted["by"] == "greedy"
    assert (scripted["recall"]["value"], scripted["precision"]["value"]) == (
        pytest.approx(100 * 22 / 23), 100.0,
    )  # fmt: skip
    assert scripted["auroc"] is None


def test_perplexity_is_not_measured_where_there_are_no_probabilities(table):
    rows, _, _ = table
    for label in ("scripted", "prompted"):
        assert rows[label]["perplexity"] == {}
        assert "no probabilities" in rows[label]["not_measured"]["perplexity"]


def test_who_names_a_choice_has_fallen_out_of_its_role(table):
    rows, _, _ = table
    assert rows["scripted"]["role_adherence"]["value"] == 0
    assert rows["scripted"]["role_adherence"]["answered"] == 1


def test_the_judge_is_measured_beside_what_it_judges(table):
    rows, _, _ = table
    found = rows["scripted"]["intent_adherence"]
    assert (found["value"], found["refused"], found["n"]) == (100.0, 2, 2)
    assert 30 < found["judge_accuracy"]["value"] < 70  # it says REFUSED to everything


def test_gaps_compare_models_and_a_model_with_itself(table):
    rows, _, _ = table
    names = set(rows["user_lm"]["gaps"])
    assert names == {
        "without / with intent", "base / this, without intent", "base / this, with intent",
    }  # fmt: skip


def test_units_give_the_figures_of_the_evaluation(table):
    from userlm_synth.estimates import Units

    rows, out, _ = table
    lines = [json.loads(line) for line in (out / "units.jsonl").read_text().splitlines()]
    by = {(line["label"], line["figure"]): Units.read(line["units"]) for line in lines}
    assert by["user_lm", "termination.f1"].value == pytest.approx(
        rows["user_lm"]["termination"]["f1"]["value"]
    )
    assert by["user_lm", "perplexity.with_intent"].value == pytest.approx(
        rows["user_lm"]["perplexity"]["with_intent"]["value"], rel=1e-4
    )
    assert ("human", "naturalness") in by


def test_conversations_without_intents_are_scored_without_one_only(folder, tmp_path, capsys):
    bare = [{**one, "intent": None} for one in CHATS[:4]]
    write_records(tmp_path / "bare.jsonl", bare, "conversation")
    models = {"user_lm": Simulator(str(folder / "user_lm"))}
    row, people = evaluate(models, [tmp_path / "bare.jsonl"], tmp_path / "o", Evaluate(**SIZES))[
        "results"
    ]
    assert list(row["perplexity"]) == ["without_intent"]
    assert row["termination"]["n"] == 8
    for name in ("first_turn_diversity", "intent_decomposition", "naturalness"):
        assert row["not_measured"][name] == "no conversation has an intent"
        assert people["not_measured"][name] == "no conversation has an intent"
    assert "4 of 4 conversations have no intent" in capsys.readouterr().err


def test_fewer_conversations_than_first_turns_is_said(folder, tmp_path, capsys):
    Held.read(folder / "test.jsonl", Evaluate(first_turns=100), 0)
    assert "24 first turns a row, not 100" in capsys.readouterr().err


def test_termination_is_measured_on_the_same_conversations_where_there_are_too_many(folder):
    held = [Held.read(folder / "test.jsonl", Evaluate(termination=5), 0) for _ in range(2)]
    assert [one["id"] for one in held[0].left] == [one["id"] for one in held[1].left]
    assert len(held[0].left) == 5


def test_a_questions_file_without_a_judge_says_what_is_missing(folder, tmp_path):
    settings = Evaluate(**SIZES, questions=str(folder / "open.jsonl"))
    script = {"s": Simulator(f"scripted:{folder / 'script.json'}")}
    row = evaluate(script, [folder / "test.jsonl"], tmp_path, settings)["results"][0]
    assert row["not_measured"]["intent_adherence"] == "needs a judge: evaluate.judge.model=SPEC"
    assert "evaluate.multiple_choice" in row["not_measured"]["role_adherence"]


def test_models_are_called_by_their_folder_where_that_is_clear(folder, tmp_path):
    other = tmp_path / "user_lm"
    other.mkdir()
    one = str(folder / "user_lm")
    assert labels([one, f"prompted:{folder / 'base'}", "openai:m@http://localhost:1/v1"]) == [
        "user_lm", "prompted:base", "m",
    ]  # fmt: skip
    assert labels([one, str(other)]) == [one, str(other)]


@pytest.mark.parametrize(
    ("models", "message"),
    [([], "name a MODEL"), (["human"], "what people are called")],
)
def test_what_cannot_be_a_table_is_one_line(folder, tmp_path, models, message):
    with pytest.raises(UserError, match=message):
        evaluate_named(None, models, [], [folder / "test.jsonl"], tmp_path / "out")


def test_two_files_of_one_name_are_one_line(folder, tmp_path):
    (tmp_path / "test.jsonl").write_bytes((folder / "test.jsonl").read_bytes())
    files = [folder / "test.jsonl", tmp_path / "test.jsonl"]
    with pytest.raises(UserError, match=r"two files are called test\.jsonl"):
        evaluate({"m": Simulator(str(folder / "user_lm"))}, files, tmp_path / "o", Evaluate())


def test_the_command_prints_the_table_and_where_the_page_is(cli, folder, tmp_path):
    done = cli(
        "evaluate", folder / "user_lm", "evaluate.first_turns=4", "evaluate.bootstrap=100",
        "evaluate.max_tokens=8", "--conversations", folder / "test.jsonl", "--out", tmp_path / "o",
        "--max-conversations", 6,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "user_lm" in done.out
    assert done.out.splitlines()[-1] == str(tmp_path / "o" / "index.html")
    same = cli("evaluate", "--compare", tmp_path / "o", tmp_path / "o")
    assert same.code == 0, same.err
    assert "0 of" in same.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m"], "name --conversations FILE and --out DIR"),
        (["m", "--conversations", "none.jsonl", "--out", "o"], "none.jsonl"),
        (["compare", "coffee", "--conversations", "x", "--out", "o"], "one recipe, not 2"),
        (["--compare", "none", "none"], "none"),
    ],
)
def test_a_wrong_command_is_one_line(cli, arguments, message):
    done = cli("evaluate", *arguments)
    assert done.code == 1
    assert done.err.count("error: ") == 1
    assert message in done.err


KILLED = textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from userlm_synth.evaluation import evaluate, kept
    from userlm_synth.recipe import Evaluate, Simulator

    count, keep = 0, kept.KeptTurns.keep

    def dying(self, *turn):
        global count
        keep(self, *turn)
        count += 1
        if count == 30:
            os.kill(os.getpid(), 9)

    kept.KeptTurns.keep = dying
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    settings = Evaluate(bootstrap=100, first_turns=40, max_tokens=8, concurrency=1)
    evaluate({"user_lm": Simulator(str(root / "user_lm"))}, [root / "test.jsonl"], out, settings)
""")


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_figures(folder, tmp_path):
    out = tmp_path / "killed"
    done = warm.start(KILLED, folder, out).wait()
    assert done.returncode == -signal.SIGKILL
    kept = (out / "turns.jsonl").read_bytes()
    assert kept.count(b"\n") == 30
    assert list((out / "scores").iterdir())
    assert not (out / "evaluation.json").exists()
    models = {"user_lm": Simulator(str(folder / "user_lm"))}
    settings = Evaluate(bootstrap=100, first_turns=40, max_tokens=8, concurrency=1)
    again = evaluate(models, [folder / "test.jsonl"], out, settings)
    calm = evaluate(models, [folder / "test.jsonl"], tmp_path / "calm", settings)
    assert again == calm
    assert (out / "turns.jsonl").read_bytes().startswith(kept)
    assert sorted((out / "turns.jsonl").read_bytes().splitlines()) == sorted(
        Path(tmp_path / "calm/turns.jsonl").read_bytes().splitlines()
    )
