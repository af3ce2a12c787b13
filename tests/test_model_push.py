"""Facts about a user LM's release: its card, its figures, its name, and what is left out of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import evaluations
import pytest
import yaml
from huggingface_hub import ModelCard

import toys
from userlm_synth.errors import UserError
from userlm_synth.hub import build_model
from userlm_synth.recipe import Push
from userlm_synth.records import Record, record_problems, sha256_file
from userlm_synth.user_lm.checkpoint import save_checkpoint
from userlm_synth.user_lm.loading import fingerprint

BODY = """
# coffee: a user language model

It plays the user.

## Figures

| figure | value |

## Data

| conversations | value |

## Licence

The base's licence is not known here.
That of the conversations is `odc-by`.

## Limits

- It may be rude.
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint without a card."""
    folder = tmp_path_factory.mktemp("models") / "user_lm"
    tokenizer = toys.tokenizer()
    save_checkpoint(toys.model(tokenizer), tokenizer, folder, {"speaker": "user"})
    return folder


def a_model(saved: Path, run: Path, **front: Any) -> Path:
    """The checkpoint in a run folder, with training's card."""
    folder = run / "user_lm"
    shutil.copytree(saved, folder)
    told = {"library_name": "transformers", "tags": ["userlm_synth", "user-simulation"], **front}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(told)}---\n{BODY}", "utf-8")
    return folder


def evaluated(folder: Path, **changes: Any) -> Record:
    """An evaluation of that model, and of one that lay there before."""
    evaluation = evaluations.make_evaluation()
    row = next(one for one in evaluation["results"] if one["kind"] != "human")
    row |= {"fingerprint": fingerprint(str(folder)), **changes}
    (folder.parent / "evaluation").mkdir()
    place = folder.parent / "evaluation" / "evaluation.json"
    place.write_text(json.dumps(evaluation))
    return row


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text("utf-8")


def test_the_files_are_published_as_they_are_and_none_that_runs_code(
    saved: Path, tmp_path: Path
) -> None:
    folder = a_model(saved, tmp_path, license="apache-2.0")
    for name in ("training_args.bin", "modeling_evil.py", ".secret"):
        (folder / name).write_text("x")
    build_model(folder, tmp_path / "out", Push(), "coffee")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    there = {path.name for path in folder.iterdir()}
    assert names == there - {"training_args.bin", "modeling_evil.py", ".secret"} | {"SHA256SUMS"}
    for name in names - {"README.md", "SHA256SUMS"}:
        assert sha256_file(tmp_path / "out" / name) == sha256_file(folder / name)
    lines = (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert sums == {
        path.name: sha256_file(path)
        for path in (tmp_path / "out").iterdir()
        if path.name != "SHA256SUMS"
    }


def test_evaluation_figures_are_read_by_the_hub(saved: Path, tmp_path: Path) -> None:
    folder = a_model(saved, tmp_path, license="apache-2.0")
    row = evaluated(folder)
    done = build_model(folder, tmp_path / "out", Push(), "coffee")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.model_name == "coffee"
    results = card.data.eval_results
    assert results is not None
    assert len(results) == done["metrics"] >= 5
    values = {one.metric_type: one.metric_value for one in results}
    assert values["termination_f1"] == row["termination"]["f1"]["value"]
    assert values["perplexity"] == row["perplexity"]["with_intent"]["value"]
    assert {one.task_type for one in results} == {"text-generation"}
    text = card_of(tmp_path / "out")
    assert text.index("## Figures") < text.index("## Evaluation") < text.index("## Data")
    assert "| Dialogue termination (F1) | " in text
    front = yaml.safe_load(text.split("---\n")[1])
    assert record_problems(front, "model_card") == []


def test_figures_of_a_model_that_lay_there_before_are_not_taken(
    saved: Path, tmp_path: Path
) -> None:
    folder = a_model(saved, tmp_path, license="apache-2.0")
    evaluated(folder, fingerprint="user_lm#000000000000")
    assert build_model(folder, tmp_path / "out", Push(), "coffee")["metrics"] == 0
    text = card_of(tmp_path / "out")
    assert "This model was not evaluated" in text
    assert "model-index" not in text


def test_uses_and_misuse_are_said_and_the_licence_once(saved: Path, tmp_path: Path) -> None:
    folder = a_model(saved, tmp_path, license="apache-2.0")
    build_model(folder, tmp_path / "out", Push(), "coffee")
    text = card_of(tmp_path / "out")
    assert "## Intended use" in text
    assert "posing as people" in text
    assert text.count("## Licence") == 1
    assert "passed on under apache-2.0" in text
    assert "is not known here" not in text
    assert "That of the conversations is `odc-by`." in text
    assert "- It may be rude." in text


def test_a_llama_is_called_llama_and_says_built_with_llama(saved: Path, tmp_path: Path) -> None:
    base = {"base_model": "meta-llama/Llama-3.2-1B", "license": "llama3.2"}
    folder = a_model(saved, tmp_path, **base)
    with pytest.raises(UserError, match=r"begins with 'Llama'; push it as Llama-coffee"):
        build_model(folder, tmp_path / "out", Push(), "coffee")
    assert not (tmp_path / "out").exists()
    build_model(folder, tmp_path / "out", Push(), "Llama-coffee")
    text = card_of(tmp_path / "out")
    assert "**Built with Llama**" in text
    assert (tmp_path / "out" / "NOTICE").read_text("utf-8") == (
        "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright \u00a9 Meta "
        "Platforms, Inc. All Rights Reserved.\n"
    )
    with pytest.raises(UserError, match=r"push\.license: is mit, .* hands on its own licence"):
        build_model(folder, tmp_path / "other", Push(license="mit"), "Llama-coffee")


def test_gemmas_terms_are_handed_on(saved: Path, tmp_path: Path) -> None:
    folder = a_model(saved, tmp_path, base_model="google/gemma-3-1b-pt")
    assert build_model(folder, tmp_path / "out", Push(), "coffee")["license"] == "gemma"
    assert "ai.google.dev/gemma/terms" in (tmp_path / "out" / "NOTICE").read_text()


def test_a_licence_that_is_not_known_has_to_be_given(saved: Path, tmp_path: Path) -> None:
    folder = a_model(saved, tmp_path, base_model="somebody/base")
    with pytest.raises(UserError, match=r"its base is somebody/base\); give it, as push\.license="):
        build_model(folder, tmp_path / "out", Push(), "coffee")
    with pytest.raises(UserError, match=r"push\.license_name"):
        build_model(folder, tmp_path / "out", Push(license="other"), "coffee")
    own = Push(license="other", license_name="mine", license_link="https://example.org")
    build_model(folder, tmp_path / "out", own, "coffee")
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.license_name) == ("other", "mine")


def test_a_secret_in_the_card_stops_the_push(saved: Path, tmp_path: Path) -> None:
    folder = a_model(saved, tmp_path, license="apache-2.0")
    secret = "hf_" + "aBcDeFgHiJkLmNoPqRsT" + "uVwXyZaBcDeFgH"
    with (folder / "README.md").open("a") as file:
        file.write(f"\nmade with {secret}\n")
    with pytest.raises(UserError, match="HUGGING_FACE_TOKEN 1") as refused:
        build_model(folder, tmp_path / "out", Push(), "coffee")
    assert secret not in str(refused.value)
    build_model(folder, tmp_path / "out", Push(redact=True), "coffee")
    assert "made with [HUGGING_FACE_TOKEN]" in card_of(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "no config.json"), ("README.md", "no README.md"),
     ("model.safetensors", "no weights as safetensors")],
)  # fmt: skip
def test_a_folder_that_is_no_model_is_refused(
    saved: Path, tmp_path: Path, name: str, message: str
) -> None:
    folder = a_model(saved, tmp_path, license="apache-2.0")
    (folder / name).unlink()
    with pytest.raises(UserError, match=message):
        build_model(folder, tmp_path / "out", Push(), "coffee")
