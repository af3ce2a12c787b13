"""Detectors from elsewhere: Pangram's API on a small real server, and tiny real classifiers."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from aiohttp import web

import toys
from userlm_synth.errors import UserError
from userlm_synth.evaluation.naturalness import naturalness_of
from userlm_synth.naturalness import pangram
from userlm_synth.naturalness.detectors import judge_texts
from userlm_synth.recipe.sections import Naturalness

KEY = "secret-key-of-pangram"


# ---- Pangram -----------------------------------------------------------------------------------


class ToyPangram:
    """Tasks and their results: a text `0.25` was made by a machine to a quarter, `0.25 0.75` has
    two windows. `faults` answer the first requests, `stages` the first looks at a task."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, dict[str, str], str]] = []
        self.stages: list[str] = []
        self.version = "4.0"
        self.tasks: dict[str, str] = {}
        self.bodies: list[dict] = []
        self.headers: list = []
        self.looks = 0

    async def begin(self, request: web.Request) -> web.Response:
        """POST /task."""
        self.headers.append(request.headers)
        if self.faults:
            status, headers, text = self.faults.pop(0)
            return web.Response(status=status, headers=headers, text=text)
        body = await request.json()
        self.bodies.append(body)
        if body["text"].startswith("refuse"):
            return web.json_response({"detail": "too short"}, status=422)
        name = f"t{len(self.tasks)}"
        self.tasks[name] = body["text"]
        return web.json_response({"task_id": name})

    async def look(self, request: web.Request) -> web.Response:
        """GET /task/ID."""
        self.looks += 1
        assert request.headers["x-api-key"] == KEY
        text = self.tasks.get(request.match_info["task"])
        if text is None:
            return web.json_response({"detail": "no such task"}, status=404)
        if self.stages:
            return web.json_response({"stage": self.stages.pop(0), "headline": "out of luck"})
        windows = [
            {"ai_assistance_score": float(one), "token_length": 10 * (at + 1)}
            for at, one in enumerate(text.split())
        ]
        told = {"stage": "STAGE_SUCCESS", "version": self.version, "windows": windows}
        return web.json_response(told)


@contextmanager
def serving(toy: ToyPangram):
    """Its address, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    app = web.Application()
    app.add_routes([web.post("/task", toy.begin), web.get("/task/{task}", toy.look)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def begin() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def toy(monkeypatch):
    server = ToyPangram()
    with serving(server) as url:
        monkeypatch.setenv(pangram.URL_ENV, url)
        monkeypatch.setenv(pangram.KEY_ENV, KEY)
        monkeypatch.setenv("NO_PROXY", "*")
        for name, seconds in {"FIRST_WAIT": 0.01, "POLL": 0.01, "PATIENCE": 5.0}.items():
            monkeypatch.setattr(pangram, name, seconds)
        yield server


def ask(texts, kept, by="pangram"):
    return judge_texts(by, texts, None, kept)


def test_a_text_is_as_human_as_its_windows_are_not_generated_longer_ones_more(toy, tmp_path):
    judged = ask(["0.25", "0 0.9"], tmp_path)
    assert judged.name == "pangram 4.0"
    assert judged.scores == pytest.approx({"0.25": 0.75, "0 0.9": 1 - 0.9 * 20 / 30})


def test_a_request_has_the_key_and_the_model_and_makes_nothing_public(toy, tmp_path):
    ask(["0.5"], tmp_path, "pangram:pangram-4")
    assert toy.bodies == [{"text": "0.5", "model": "pangram-4", "public_dashboard_link": False}]
    assert toy.headers[0]["x-api-key"] == KEY
    ask(["0.5"], tmp_path)
    assert toy.bodies[1]["model"] == "default"


def test_no_text_is_asked_for_twice_in_one_run_or_the_next(toy, tmp_path):
    first = ask(["0.1", "0.2", "0.1"], tmp_path)
    again = ask(["0.2", "0.1"], tmp_path)
    assert again.scores == first.scores
    assert [body["text"] for body in toy.bodies] == ["0.1", "0.2"]
    ask(["0.2", "0.3"], tmp_path)
    assert toy.bodies[2]["text"] == "0.3"


def test_known_answers_need_neither_key_nor_network(toy, tmp_path, monkeypatch):
    first = ask(["0.1"], tmp_path)
    monkeypatch.delenv(pangram.KEY_ENV)
    monkeypatch.setenv(pangram.URL_ENV, "http://127.0.0.1:1")
    assert ask(["0.1"], tmp_path) == first


def test_an_overloaded_server_is_asked_again(toy, tmp_path):
    toy.faults = [(429, {"Retry-After": "0"}, "slow down")] * 4 + [(503, {}, "busy")]
    assert ask(["0.5"], tmp_path).scores == {"0.5": 0.5}
    assert len(toy.headers) == 6


def test_a_task_is_looked_at_until_it_is_done(toy, tmp_path):
    toy.stages = ["STAGE_QUEUED", "STAGE_RUNNING"]
    assert ask(["0.5"], tmp_path).scores == {"0.5": 0.5}
    assert (len(toy.bodies), toy.looks) == (1, 3)


def test_a_task_that_was_under_way_when_the_run_stopped_is_not_paid_again(
    toy, tmp_path, monkeypatch
):
    toy.stages = ["STAGE_RUNNING"] * 1000
    monkeypatch.setattr(pangram, "PATIENCE", 0.05)
    with pytest.raises(UserError, match="has not finished a text in"):
        ask(["0.5"], tmp_path)
    toy.stages = []
    assert ask(["0.5"], tmp_path).scores == {"0.5": 0.5}
    assert len(toy.bodies) == 1


def test_a_task_that_the_server_forgot_is_begun_anew(toy, tmp_path, monkeypatch):
    toy.stages = ["STAGE_RUNNING"] * 1000
    monkeypatch.setattr(pangram, "PATIENCE", 0.05)
    with pytest.raises(UserError):
        ask(["0.5"], tmp_path)
    toy.stages, toy.tasks = [], {}
    assert ask(["0.5"], tmp_path).scores == {"0.5": 0.5}
    assert len(toy.bodies) == 2


def test_failed_tasks_are_begun_anew_and_then_the_text_is_left_out(toy, tmp_path, capsys):
    ask(["0.1"], tmp_path)
    toy.stages = ["STAGE_FAILED"] * 2
    assert ask(["0.5"], tmp_path).scores == {"0.5": 0.5}
    toy.stages = ["STAGE_FAILED"] * 3
    assert ask(["0.7"], tmp_path).scores == {}
    assert "1 texts are not judged by Pangram, the first: out of luck" in capsys.readouterr().err


def test_texts_that_pangram_refuses_are_left_out_and_told(toy, tmp_path, capsys):
    assert ask(["0.1", "refuse me"], tmp_path).scores == {"0.1": 0.9}
    assert "1 texts are not judged by Pangram, the first: 422: too short" in capsys.readouterr().err


def test_a_text_without_windows_has_no_score(toy, tmp_path):
    assert ask(["0.1", " "], tmp_path).scores == {"0.1": 0.9}


def test_a_run_whose_texts_are_all_refused_stops(toy, tmp_path):
    with pytest.raises(UserError, match="judged none of 20 texts: 422: too short"):
        ask([f"refuse {at}" for at in range(50)], tmp_path)
    assert len(toy.bodies) < 50


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ((401, {}, f"bad key {KEY}"), "refuses the key in PANGRAM_API_KEY (401: bad key (key))"),
        ((402, {}, '{"detail": "empty"}'), "no credit is left (402: empty); add some, then run"),
        ((301, {"Location": "/x"}, "moved"), "is not Pangram's address (301: moved)"),
        ((404, {}, "nothing"), "is not Pangram's address (404: nothing)"),
        ((200, {}, '{"task": 1}'), "gave no task_id: {'task': 1}"),
    ],
)
def test_what_no_other_text_would_escape_is_one_line_without_the_key(toy, tmp_path, fault, told):
    toy.faults = [fault] * 20
    with pytest.raises(UserError) as error:
        ask(["0.1", "0.2"], tmp_path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert KEY not in str(error.value)
    assert len(toy.headers) <= 2


def test_a_server_that_stays_down_is_told_and_the_answers_so_far_are_kept(toy, tmp_path):
    ask(["0.1"], tmp_path)
    toy.faults = [(500, {}, f"down, {KEY}")] * 20
    with pytest.raises(UserError, match=r"does not answer \(500: down, \(key\)\); check the net"):
        ask(["0.1", "0.2"], tmp_path)
    toy.faults = []
    ask(["0.1", "0.2"], tmp_path)
    assert len(toy.bodies) == 2
    assert KEY not in (tmp_path / "detector.jsonl").read_text()


def test_without_a_key_or_a_network_one_line_says_so(toy, tmp_path, monkeypatch):
    monkeypatch.setenv(pangram.URL_ENV, "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1: Pangram does not answer \(.*\); check"):
        ask(["0.1"], tmp_path)
    monkeypatch.delenv(pangram.KEY_ENV)
    with pytest.raises(UserError, match="PANGRAM_API_KEY is not set: set it to your key"):
        ask(["0.1"], tmp_path)


def test_answers_of_two_versions_are_not_mixed(toy, tmp_path):
    ask(["0.1"], tmp_path)
    toy.version = "5.0"
    with pytest.raises(UserError, match=r"detector\.jsonl: holds answers .* 4\.0 and 5\.0"):
        ask(["0.1", "0.2"], tmp_path)


def test_another_interface_is_told(toy, tmp_path):
    with pytest.raises(UserError, match="a result without 'windows'; its interface has changed"):
        pangram.read_result({"version": "9", "fraction_ai": 1.0})


def test_the_figure_by_pangram_is_the_mean_over_equally_many_texts_that_it_judged(toy, tmp_path):
    rows = {
        "human": {str(at): f"0.{at}" for at in range(10, 40)},
        "gpt": {str(at): f"0.{at + 50}" for at in range(10, 40)},
        "lm": {str(at): f"refuse {at}" if at < 15 else f"0.{at}" for at in range(10, 40)},
    }
    kinds = {"human": "human", "gpt": "prompted", "lm": "user_lm"}
    figures = naturalness_of(
        rows, kinds, Naturalness(by="pangram"), limit=99, samples=100, seed=0, kept=tmp_path
    )
    for label, (figure, units) in figures.items():
        named = units["naturalness"]
        scores = [1 - float(rows[label][name]) for name in named.ids]
        assert figure["value"] == pytest.approx(100 * sum(scores) / 25)
        assert (figure["n"], figure["by"], figure["contrast"]) == (25, "pangram 4.0", "gpt")
        assert set(named.ids) == {str(at) for at in range(15, 40)}
        assert figure["auroc"]["value"] == 100.0
    assert figures["human"][0]["two_sample"] is None  # too few for two halves
    assert figures["lm"][0]["two_sample"]["p"] == 1.0


def test_a_row_whose_texts_are_mostly_refused_has_no_figure_and_costs_the_others_nothing(
    toy, tmp_path
):
    rows = {"human": {str(at): f"0.{at}" for at in range(10, 40)}}
    rows["lm"] = {name: f"refuse {text}" for name, text in rows["human"].items()}
    figures = naturalness_of(
        rows, {}, Naturalness(by="pangram"), limit=99, samples=100, seed=0, kept=tmp_path
    )
    assert figures["lm"] == ("needs 20 first turns that the detector judges; there are 0", {})
    assert figures["human"][0]["n"] == 30
    assert (figures["human"][0]["auroc"], figures["human"][0]["contrast"]) == (None, None)


# ---- a classifier in process -------------------------------------------------------------------


def save_classifier(folder: Path, labels=("human", "machine"), kind="bert", **more) -> Path:
    """A classifier of random weights, with the toys' tokenizer."""
    from transformers import BertConfig, RobertaConfig, RobertaForSequenceClassification
    from transformers import BertForSequenceClassification as Bert

    tokenizer = toys.tokenizer()
    torch.manual_seed(1)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 34,
        "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.5,
        "id2label": dict(enumerate(labels)), "label2id": {one: at for at, one in enumerate(labels)},
        **more,
    }  # fmt: skip
    model = (
        Bert(BertConfig(**shape))
        if kind == "bert"
        else RobertaForSequenceClassification(RobertaConfig(**{**shape, "pad_token_id": 1}))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("detector"))


def directly(folder: Path, text: str, number: int) -> float:
    """The probability by transformers' own classes, one text at a time."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = toys.tokenizer().encode(text)[:32]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits.softmax(-1)[0, number].item()


def test_a_classifiers_human_label_is_read_and_batches_change_nothing(folder, tmp_path):
    texts = [
        "could i get a latte",
        "Sure!",
        "to go, thanks " * 3,
        "word " * 300,
        *map(str, range(40)),
    ]
    judged = judge_texts(str(folder), texts, None, tmp_path)
    assert judged.name.startswith(f"{folder.name}#")
    for text in texts[:6]:
        assert judged.scores[text] == pytest.approx(directly(folder, text, 0), abs=1e-5)
    assert len(set(judged.scores.values())) > 10


def test_what_a_classifier_said_is_kept_for_it_and_for_its_label_alone(folder, tmp_path):
    judge_texts(str(folder), ["Sure!"], None, tmp_path)
    kept = tmp_path / "detector.jsonl"
    entry = json.loads(kept.read_text())
    kept.write_text(json.dumps({**entry, "answer": "0.125"}) + "\n")
    assert judge_texts(str(folder), ["Sure!"], None, tmp_path).scores == {"Sure!": 0.125}
    other = judge_texts(str(folder), ["Sure!"], "machine", tmp_path).scores["Sure!"]
    assert other == pytest.approx(directly(folder, "Sure!", 1), abs=1e-5)
    another = save_classifier(tmp_path / "another", initializer_range=0.4)
    assert judge_texts(str(another), ["Sure!"], None, tmp_path).scores["Sure!"] != 0.125


def test_a_classifier_with_positions_after_the_padding_takes_long_texts(tmp_path):
    folder = save_classifier(tmp_path / "roberta", kind="roberta")
    scores = judge_texts(str(folder), ["word " * 300, "Sure!"], None, tmp_path).scores
    assert all(0 < one < 1 for one in scores.values())


def test_the_label_of_people_may_stand_at_any_place(tmp_path):
    folder = save_classifier(tmp_path / "detector", ("AI", "Human-written"))
    scores = judge_texts(str(folder), ["Sure!"], None, tmp_path).scores
    assert scores["Sure!"] == pytest.approx(directly(folder, "Sure!", 1), abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "given", "told"),
    [
        (("LABEL_0", "LABEL_1"), None, r"do not say which one means people \(LABEL_0, LABEL_1\)"),
        (("human", "Real"), None, "do not say which one"),
        (("human", "fake"), "Fake", "no label 'Fake' .*; it has: human, fake"),
        (("human",), None, "has one output only"),
    ],
)
def test_labels_that_do_not_say_who_is_human_are_listed(tmp_path, labels, given, told):
    folder = save_classifier(tmp_path / "detector", labels)
    with pytest.raises(UserError, match=told):
        judge_texts(str(folder), ["Sure!"], given, tmp_path)


def test_a_model_without_a_trained_head_is_refused(folder, tmp_path):
    from transformers import AutoModel

    headless = save_classifier(tmp_path / "headless")
    AutoModel.from_pretrained(headless).save_pretrained(headless)
    config = json.loads((folder / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is no trained classifier: its weights lack classifier\."):
        judge_texts(str(headless), ["Sure!"], None, tmp_path)


def test_pickled_weights_and_foreign_code_are_refused(tmp_path):
    folder = save_classifier(tmp_path / "detector")
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickles, which can run any code"):
        judge_texts(str(folder), ["Sure!"], None, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    foreign = {**config, "model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(foreign))
    (folder / "own.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(UserError, match="cannot be loaded as a detector"):
        judge_texts(str(folder), ["Sure!"], None, tmp_path)


def test_a_detector_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        judge_texts(str(tmp_path / "none"), ["Sure!"], None, tmp_path)
    with pytest.raises(UserError, match="nobody/nothing: cannot be loaded as a detector"):
        judge_texts("nobody/nothing", ["Sure!"], None, tmp_path)
