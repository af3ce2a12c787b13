"""The model card: front matter that the Hub reads, a snippet that runs, no path of the machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_card import toy_card

import toys
from userlm_synth.recipe import Training
from userlm_synth.records import Record
from userlm_synth.training.card import base_license, render_model_card, write_model_card
from userlm_synth.user_lm import open_chat, save_checkpoint, set_generation
from userlm_synth.user_lm.chat_format import Speaker

STEP = {"loss": 2.5, "end_loss": 0.25, "end_accuracy": 0.7, "seconds": 1.5, "learning_rate": 1e-5}
LOG = [
    *({"step": step, "targets": 1000.0, "ends": 12.0, **STEP} for step in range(1, 101)),
    {"step": 50, "validation": {"perplexity": 99.0}},
    {
        "step": 100,
        "validation": {"perplexity": 12.34, "perplexity_no_intent": 15.81, "end_found": 0.6},
    },
]


def facts(**changes: Any) -> Record:
    found = {
        "name": "coffee: user LM",
        "speaker": "user",
        "base": "meta-llama/Llama-3.2-1B@0123abc",
        "license": "llama3.2",
        "log": LOG,
        "settings": asdict(Training(end_weight="sample")),
        "seed": 7,
        "command": "userlm-synth train coffee train.epochs=3",
        "processes": 8,
        "device": "NVIDIA H200",
        "conversations": 712_345,
        "data": toy_card(),
    }
    return {**found, **changes}


def test_the_hub_reads_the_front_matter(tmp_path: Path) -> None:
    write_model_card(tmp_path / "new", facts())
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["README.md"]
    found = ModelCard.load(tmp_path / "new" / "README.md").data.to_dict()
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "llama3.2",
        "language": ["en", "pt"],
        "base_model": "meta-llama/Llama-3.2-1B",
        "base_model_relation": "finetune",
        "datasets": ["allenai/WildChat-1M"],
        "tags": ["userlm_synth", "user-simulation", "conversational"],
    }


def rows(text: str) -> dict[str, str]:
    """The rows of every table of a card."""
    found = re.findall(r"^\| (.*?) \| (.*) \|$", text, re.MULTILINE)
    return {left: right for left, right in found if set(left) != {"-"}}


def test_figures_are_those_of_the_log() -> None:
    late = [{**line, "loss": 1.5} if line["step"] > 90 else line for line in LOG]
    found = rows(render_model_card(facts(log=late)))
    assert found["training loss, mean of the last 20 steps"] == "2.000 nats a token"
    assert found["the same at the end token"] == "0.250 nats a token"
    assert found["end token most likely where people left"] == "70 %"
    assert found["validation perplexity with intent"] == "12.3"
    assert found["validation perplexity without intent"] == "15.8"
    assert found["steps"] == "100"
    assert found["target tokens"] == "100,000"
    assert found["time in steps"] == "2m30s"
    assert found["trained on"] == "NVIDIA H200, 8 processes"
    assert found["conversations trained on"] == "712,345"
    assert found["people in the train split"] == "6,301"
    assert found["source"].endswith(
        "(https://huggingface.co/datasets/allenai/WildChat-1M) at 0123abc"
    )
    assert found["end_weight"] == "sample"
    assert found["learning_rate"] == "2e-05"
    assert found["seed"] == "7"


def test_a_card_of_little_says_what_is_not_known() -> None:
    log = [{"step": 1, "loss": 2.0, "targets": 10.0, "seconds": 0.2, "end_loss": 0.0, "ends": 0.0}]
    text = render_model_card(
        facts(speaker="assistant", base=None, license=None, log=log, data=None, processes=1)
    )
    assert set(ModelCard(text).data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert "user-simulation" not in text
    assert "An **assistant language model**" in text
    assert "no licence was chosen yet" in text
    assert "Whether personal data was taken out of the conversations is not known" in text
    found = rows(text)
    assert found["training loss, last step"] == "2.000 nats a token"
    assert found["trained on"] == "NVIDIA H200, 1 process"
    assert not any("validation perplexity" in name or "end token" in name for name in found)
    assert "Perplexity is over" not in text


def test_languages_are_codes_that_the_hub_knows() -> None:
    data = toy_card()
    data["languages"] = {"unknown": 40, "pt-BR": 300, "en": 990, "pt": 30, "xx": 1, "zh_Hant": 200}
    text = render_model_card(facts(data=data))
    assert ModelCard(text).data.language == ["en", "pt"]
    assert rows(text)["languages"] == "en, pt"


@pytest.mark.parametrize("redacted", [True, False])
def test_a_card_says_whether_personal_data_was_replaced(redacted: bool) -> None:
    data = toy_card()
    data["settings"]["redact"] = redacted
    text = render_model_card(facts(data=data))
    assert ("were replaced by placeholders" in text) is redacted
    assert ("was left in the conversations" in text) is not redacted


def test_no_path_of_the_machine_and_no_text_of_people_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private-place"
    (private / "my-base").mkdir(parents=True)
    (private / "recipe.yaml").write_text("name: x")
    monkeypatch.chdir(tmp_path)
    data = toy_card()
    where = str(private / "my|chats.jsonl")
    data["source"] |= {"name": "file", "where": where, "revision": None, "license": None}
    data["settings"] |= {"source": where, "clean": {"exclude_ids": str(private / "ids.txt")}}
    command = (
        f"'{private}/bin/userlm-synth' train '{private}/recipe.yaml' --out='{private}/run' "
        f"'base.model=hf:{private}/my-base' 'conversations.source={where}' train.epochs=3 "
        "private-place/recipe.yaml ~/home.yaml ../up/there.yaml"
    )
    base = f"hf:{private / 'my-base'}"
    text = render_model_card(facts(data=data, base=base, license=None, command=command))
    for private_name in (
        str(tmp_path),
        "private",
        tmp_path.name,
        "~/",
        "../",
        "write a prompt for",
    ):
        assert private_name not in text, private_name
    assert (
        "userlm-synth train recipe.yaml --out=run base.model=hf:my-base "
        "'conversations.source=my|chats.jsonl' train.epochs=3 recipe.yaml home.yaml there.yaml\n"
    ) in text
    assert "Base: the checkpoint `my-base`." in text
    assert "Base: the checkpoint `my-base`." in render_model_card(
        facts(base=os.path.relpath(private / "my-base"))  # could be an id on the Hub
    )
    assert rows(text)["source"] == "my\\|chats.jsonl"
    assert "The base's licence is not known here" in text
    assert {"base_model", "datasets", "license"}.isdisjoint(ModelCard(text).data.to_dict())


def test_ids_on_the_hub_and_urls_stay_as_they_are() -> None:
    command = (
        "userlm-synth train userlm-1b base.model=hf:org/Model-1.5B@v2 "
        "conversations.source=hf://datasets/org/chats assistant.model=openai:m@http://host:1/v1"
    )
    assert f"```sh\n{command}\n```" in render_model_card(facts(command=command))


def test_a_secret_in_the_command_is_not_in_the_card() -> None:
    token = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
    text = render_model_card(facts(command=f"HF_TOKEN={token} userlm-synth train x", name=token))
    assert token not in text


@settings(max_examples=20)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_name_and_command_leave_the_card_readable(name: str, command: str) -> None:
    text = render_model_card(facts(name=name, command=command))
    assert ModelCard(text).data.license == "llama3.2"
    assert rows(text)["steps"] == "100"


# ---- the snippet -----------------------------------------------------------------------------


@pytest.mark.parametrize("speaker", ["user", "assistant"])
def test_the_snippet_runs_as_it_stands(
    speaker: Speaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tok = toys.tokenizer()
    model = toys.model(tok)
    form = open_chat(model, tok, speaker)
    set_generation(model, form)
    save_checkpoint(model, tok, tmp_path, {})
    write_model_card(tmp_path, facts(speaker=speaker))
    (snippet,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), space)
    assert capsys.readouterr().out.strip()
    if speaker == "user":
        messages = space["messages"]
        assert [one["role"] for one in messages] == ["system", "user", "assistant"]
        assert isinstance(messages[1]["content"], str)
        # the template opens a user turn: the prompt is the one that our own code makes
        asked = space["tokenizer"].apply_chat_template(messages, tokenize=True, return_dict=False)
        assert list(asked) == form.prompt(messages)
        # and where the end token is sure to come, the user leaves
        space["model"].generation_config.do_sample = False
        favour(space["model"], space["end"])
        assert space["user_turn"](messages) is None
        assert isinstance(space["user_turn"](messages, may_leave=False), str)


def favour(model: Any, token: int) -> None:
    """Make one token the likely one everywhere."""
    import torch

    bias = torch.zeros(model.config.vocab_size)
    bias[token] = 1e4
    model.get_output_embeddings().bias = torch.nn.Parameter(bias)


# ---- the base's licence ----------------------------------------------------------------------

CARD = "---\nlicense: {}\ntags: [x]\n---\n# A base\n"


@pytest.mark.parametrize(
    ("readme", "license"),
    [
        (CARD.format("apache-2.0"), "apache-2.0"),
        ("\ufeff" + CARD.format("llama3.2").replace("\n", "\r\n"), "llama3.2"),
        (CARD.format("[mit]"), "mit"),
        (CARD.format("[mit, other]"), None),
        (CARD.format("'mine\nbase_model: x'"), None),
        (CARD.format("{a: b}"), None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense: [\n---\n", None),
        ("# No front matter\n---\nlicense: mit\n---\n", None),
        ("", None),
    ],
)
def test_a_folders_licence_is_what_its_card_says(
    readme: str, license: str | None, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_bytes(readme.encode())
    assert base_license(str(tmp_path)) == license
    assert base_license(f"hf:{tmp_path}") == license


def test_nobody_who_answers_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert base_license(str(tmp_path)) is None  # no README.md
    assert base_license(str(tmp_path / "nowhere")) is None
    assert base_license("") is None
    assert base_license("org/model") is None  # the tests are offline
    assert "org/model: its licence could not be looked up" in capsys.readouterr().err


@given(st.binary(max_size=200))
def test_any_readme_is_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("base")
    (folder / "README.md").write_bytes(b"---\n" + content + b"\n---\n")
    found = base_license(str(folder))
    assert found is None or re.fullmatch(r"[\w.+-]+", found)


class Hub(BaseHTTPRequestHandler):
    """What the Hub says of one repository and two of its revisions."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        licenses = {"/api/models/org/base": "mit", "/api/models/org/base/revision/v2": "apache-2.0"}
        card = {"license": licenses.get(path)}
        body = json.dumps({"id": "org/base", "cardData": card, "siblings": []}).encode()
        self.send_response(200 if path in licenses else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_hub_ids_licence_is_what_the_hub_says(hub: str) -> None:
    code = (
        "from userlm_synth.training.card import base_license as of\n"
        "print(of('org/base'), of('hf:org/base@v2'), of('org/none'))\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "mit apache-2.0 None\n", done.stderr
