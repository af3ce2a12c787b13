"""Facts about the stage that trains the adapters of a recipe."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from safetensors.torch import load_file
from test_ranks import launch

import toys
from toys import adapter_weights as weights
from toys import read_json as read
from userlm_synth.evaluation.scoring import Model
from userlm_synth.records import read_records
from userlm_synth.user_lm import checkpoint, load_model, load_tokenizer
from userlm_synth.world import make_conversations

RECIPE = """
name: people
conversations: {{source: quickstart, count: 120, clean: null, dedup: null, train: 0.7,
                validation: 0.15, test: 0.15, persona: "Writes in a {{metadata.style}} way."}}
base: {{model: "{user_lm}"}}
personas:
  by: metadata.style
  min_conversations: 20
  rank: 2
  train: {{max_steps: 3, learning_rate: 1e-2, max_length: 256, batch_tokens: 512,
          micro_batch_tokens: 256, precision: fp32, checkpoint_minutes: 1e-9}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and `user_lm`."""
    folder = tmp_path_factory.mktemp("run")
    toys.trained_user_lm(folder, make_conversations(6, 0), epochs=1)
    return folder


@pytest.fixture
def recipe(run: Path, tmp_path: Path) -> Path:
    path = tmp_path / "people.yaml"
    path.write_text(RECIPE.format(user_lm=run / "user_lm"))
    return path


def test_a_run_tells_of_each_adapter_on_its_people_and_on_others(
    recipe: Path, run: Path, tmp_path: Path, cli: Any
) -> None:
    out = tmp_path / "run"
    done = cli("run", recipe, "--out", out)
    assert done.code == 0, done.err
    summary = read(out, "manifest.json")["stages"]["personas"]["summary"]
    assert sorted(path.name for path in (out / "personas").iterdir()) == sorted(summary)
    assert len(summary) >= 2
    held_out = [
        one
        for split in ("validation", "test")
        for one in read_records(out / "conversations" / f"{split}.jsonl", "conversation")
    ]
    assert all(one["persona"] for one in held_out)
    model = Model(str(run / "user_lm"))
    for name, about in summary.items():
        own = [one for one in held_out if one["metadata"]["style"] == name]
        assert about["own"]["conversations"] == len(own)
        assert about["others"]["conversations"] == len(held_out) - len(own)
        assert about["own"]["general"] == pytest.approx(perplexity(model, own), rel=1e-5)
        adapted = Model(str(out / "personas" / name))
        assert about["own"]["adapter"] == pytest.approx(perplexity(adapted, own), rel=1e-4)
        figures = about["own"]
        assert figures["ratio"] == pytest.approx(figures["adapter"] / figures["general"])
        row = next(line for line in done.err.splitlines() if line.startswith(f"{name} "))
        assert f"{figures['general']:.2f} {figures['adapter']:8.2f}" in row
    again = cli("run", recipe, "--out", out)
    assert "personas: up to date" in again.err


def perplexity(model: Model, chats: list[Any]) -> float:
    from userlm_synth.evaluation.scoring import score

    scores = score(model, chats, "chat", True, 8192)
    return math.exp(scores.nats.sum() / scores.tokens.sum())


def test_another_user_lm_at_the_same_place_makes_the_adapters_again(
    run: Path, tmp_path: Path, cli: Any
) -> None:
    shutil.copytree(run / "user_lm", tmp_path / "user_lm")
    path = tmp_path / "people.yaml"
    path.write_text(RECIPE.format(user_lm=tmp_path / "user_lm"))
    assert cli("train", path, "--out", tmp_path / "run").code == 0
    before = weights(tmp_path / "run" / "personas")
    tok = load_tokenizer(str(run / "user_lm"))
    other = load_model(str(run / "user_lm"))
    other.model.norm.weight.data *= 2
    checkpoint.save_checkpoint(other, tok, tmp_path / "user_lm", {})
    done = cli("train", path, "--out", tmp_path / "run")
    assert "personas: done again, its settings (personas) changed" in done.err
    assert weights(tmp_path / "run" / "personas") != before


@pytest.mark.slow
def test_two_processes_make_the_adapters_of_one(recipe: Path, tmp_path: Path) -> None:
    for world in (1, 2):
        done = launch(world, warm.PROGRAM, "train", recipe, "--out", tmp_path / f"run{world}")
    assert done.stdout.count("adapters: ") == 1  # the first alone speaks
    one, two = (
        {
            path.parent.name: load_file(path)
            for path in tmp_path.glob(f"run{world}/personas/*/adapter_model.safetensors")
        }
        for world in (1, 2)
    )
    assert sorted(one) == sorted(two)
    assert len(one) >= 2
    for name in one:
        assert sorted(one[name]) == sorted(two[name])
        for key in one[name]:
            assert torch.allclose(one[name][key], two[name][key], atol=1e-3), (name, key)
