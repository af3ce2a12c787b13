"""Facts about adapters: ordinary PEFT folders that vLLM takes, each made once, mergeable."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import toys
from families import NAMES, family
from toys import adapter_weights as weights
from toys import read_json as read
from userlm_synth.backends.hf import HFBackend
from userlm_synth.errors import UserError
from userlm_synth.evaluation.scoring import Model
from userlm_synth.recipe import Personas, Training
from userlm_synth.records import stable_hash
from userlm_synth.training.adapters import linear_layers, train_adapters
from userlm_synth.training.loop import Trainer, decoder_layers
from userlm_synth.user_lm import checkpoint, fingerprint, load_model, load_tokenizer
from userlm_synth.user_lm.adapters import attached, merge, model_fingerprint, open_checkpoint
from userlm_synth.world import make_conversations

OPTIONS = Training(
    max_steps=4, epochs=9, learning_rate=1e-2, max_length=256, batch_tokens=512,
    micro_batch_tokens=256, precision="fp32", validations=0,
)  # fmt: skip
GROUPS = {
    "busy": {"metadata.style": ("terse", "lowercase")},
    "kind": {"metadata.style": ("polite", "plain")},
}
SETTINGS = Personas(groups=GROUPS, min_conversations=2, rank=4, alpha=8, train=OPTIONS)
IDS = torch.tensor([[5, 9, 33, 41, 70, 12]])


@pytest.fixture(scope="module")
def chats() -> list[Any]:
    return make_conversations(40, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, chats: list[Any]) -> Path:
    """A folder with `base`, `user_lm` and two adapters in `personas`."""
    folder = tmp_path_factory.mktemp("run")
    user_lm = toys.trained_user_lm(folder, chats[:6], epochs=1)
    train_adapters(str(user_lm), chats, SETTINGS, folder / "personas", seed=0)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


# ---- what is saved ---------------------------------------------------------------------------


def test_an_adapter_is_an_ordinary_folder_of_peft_without_a_tokenizer(run: Path) -> None:
    assert sorted(path.name for path in (run / "personas").iterdir()) == ["busy", "kind"]
    assert sorted(path.name for path in (run / "personas" / "busy").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "training_log.jsonl",
        "userlm_synth.json",
    ]  # fmt: skip
    about = read(run / "personas" / "busy", "userlm_synth.json")
    assert about["made_from"] == fingerprint(str(run / "user_lm"))
    assert about["filters"] == {"metadata.style": ["terse", "lowercase"]}
    assert (about["steps"], about["rank"], about["alpha"]) == (4, 4, 8)
    assert not list(run.glob(".personas*")), "what is finished leaves no states"


def vllm_faults(folder: Path, max_lora_rank: int = 16) -> list[str]:
    """What vLLM refuses in an adapter, after vllm/lora/peft_helper.py and lora_model.py: DoRA,
    modules_to_save, a bias, too high a rank, and weights that are no lora_A or lora_B of one of
    the model's linear layers (an embedding that was trained, a row that was added)."""
    config = read(folder)
    faults = [key for key in ("modules_to_save", "use_dora", "trainable_token_indices")
              if config.get(key)]  # fmt: skip
    faults += ["bias"] if config["bias"] != "none" else []
    faults += ["r"] if config["r"] > max_lora_rank else []
    layer = re.compile(
        r"base_model\.model\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
        r"\.lora_[AB]\.weight"
    )
    weights = load_file(folder / "adapter_model.safetensors")
    return faults + [name for name in weights if not layer.fullmatch(name)]


def test_vllm_would_take_the_adapters(run: Path, tmp_path: Path) -> None:
    for name in GROUPS:
        assert vllm_faults(run / "personas" / name) == []
    shutil.copytree(run / "personas" / "kind", tmp_path / "other")
    config = {**read(tmp_path / "other"), "modules_to_save": ["lm_head"], "r": 64}
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps(config))
    assert vllm_faults(tmp_path / "other") == ["modules_to_save", "r"]


def test_every_linear_layer_of_the_decoder_has_one_and_nothing_else(run: Path) -> None:
    names = {
        name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        for name in load_file(run / "personas" / "busy" / "adapter_model.safetensors")
    }
    model = load_model(str(run / "user_lm"))
    layers = {id(part) for layer in decoder_layers(model) for part in layer.modules()}
    wanted = {
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and id(part) in layers
    }
    assert names == wanted
    assert len(wanted) == 14
    assert read(run / "personas" / "busy")["target_modules"] == sorted(
        {name.rpartition(".")[2] for name in wanted}
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_family_has_its_head_or_embeddings_among_the_targets(name: str) -> None:
    model, _ = family(name)
    targets = linear_layers(model)
    outside = {
        path.rpartition(".")[2]
        for path, part in model.named_modules()
        if part in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    assert not outside & set(targets)
    assert {"q_proj", "o_proj", "down_proj"} <= set(targets)


# ---- what it computes ------------------------------------------------------------------------


def test_peft_loads_it_on_its_base_and_computes_what_we_do(run: Path) -> None:
    folder, user_lm = run / "personas" / "busy", str(run / "user_lm")
    theirs = logits(PeftModel.from_pretrained(load_model(user_lm), str(folder)))
    model = load_model(user_lm)
    before = logits(model)
    with attached(model, folder):
        assert torch.equal(logits(model), theirs)
    assert torch.equal(logits(model), before), "given back as it was"
    merged = logits(open_checkpoint(str(folder)).model)
    assert torch.allclose(merged, theirs, atol=1e-5)
    assert not torch.allclose(merged, before, atol=1e-2), "it changes something"


def test_gradient_checkpointing_changes_no_adapter(
    run: Path, chats: list[Any], tmp_path: Path
) -> None:
    train = Training(**{**vars(OPTIONS), "gradient_checkpointing": True})
    settings = Personas(**{**vars(SETTINGS), "train": train})
    train_adapters(str(run / "user_lm"), chats, settings, tmp_path / "personas", seed=0)
    for name in GROUPS:
        one, other = (
            load_file(folder / "personas" / name / "adapter_model.safetensors")
            for folder in (run, tmp_path)
        )
        assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)


def test_evaluation_and_generation_open_an_adapter_with_its_base(run: Path) -> None:
    name = str(run / "personas" / "kind")
    both = f"{fingerprint(str(run / 'user_lm'))}+{fingerprint(name)}"
    scored, backend = Model(f"hf:{name}"), HFBackend(name, speaker="user")
    assert scored.fingerprint == backend.name == model_fingerprint(name) == both
    assert scored.is_user_lm
    assert torch.equal(
        scored.model.model.layers[0].mlp.up_proj.weight,
        backend.model.model.layers[0].mlp.up_proj.weight,
    )


# ---- one after another, each once ------------------------------------------------------------


def test_a_finished_adapter_is_kept_and_one_of_other_people_made_again(
    run: Path, chats: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "personas"
    shutil.copytree(run / "personas", out)
    user_lm, before = str(run / "user_lm"), weights(out)
    again = train_adapters(user_lm, chats, SETTINGS, out, seed=0)
    assert capsys.readouterr().err.count("up to date") == 2
    assert weights(out) == before
    assert again["kind"] == read(out / "kind", "userlm_synth.json")
    fewer = [one for one in chats if one["metadata"]["style"] != "terse"]
    train_adapters(user_lm, fewer, SETTINGS, out, seed=0)
    said = capsys.readouterr().err
    assert "adapter kind (2 of 2): up to date" in said
    assert "adapter busy (1 of 2): up to date" not in said
    assert weights(out)["busy"] != before["busy"]
    one = Personas(**{**vars(SETTINGS), "groups": {"kind": GROUPS["kind"]}})
    train_adapters(user_lm, chats, one, out, seed=0)
    assert [path.name for path in out.iterdir()] == ["kind"], "whom no group is for goes"


def test_an_interrupted_run_goes_on_to_the_same_adapters_bit_for_bit(
    run: Path, chats: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    step, calls = Trainer.step, 0

    def interrupted(self: Trainer, number: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, number)

    out = tmp_path / "personas"
    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_adapters(str(run / "user_lm"), chats, SETTINGS, out, seed=0)
    monkeypatch.undo()
    assert [path.name for path in out.iterdir()] == ["busy"]
    train_adapters(str(run / "user_lm"), chats, SETTINGS, out, seed=0)
    said = capsys.readouterr().err
    assert "adapter busy (1 of 2): up to date" in said
    assert "adapter kind (2 of 2): continues at step 2 of 4" in said
    assert weights(out) == weights(run / "personas")


def test_each_adapter_starts_anew_whatever_was_trained_before_it(
    run: Path, chats: list[Any], tmp_path: Path
) -> None:
    one = Personas(**{**vars(SETTINGS), "groups": {"kind": GROUPS["kind"]}})
    train_adapters(str(run / "user_lm"), chats, one, tmp_path / "personas", seed=0)
    assert weights(tmp_path / "personas")["kind"] == weights(run / "personas")["kind"]


def test_those_with_too_few_conversations_are_named_in_one_line(
    run: Path, chats: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Personas(by="metadata.style", min_conversations=9, rank=1, train=OPTIONS)
    made = train_adapters(str(run / "user_lm"), chats, settings, tmp_path / "personas", seed=0)
    count = dict.fromkeys(("plain", "lowercase", "terse", "polite", "typos", "chatty"), 0)
    for one in chats:
        count[one["metadata"]["style"]] += 1
    few = sorted((style for style in count if count[style] < 9), key=lambda s: (-count[s], s))
    assert sorted(made) == sorted(style for style in count if count[style] >= 9)
    assert few
    shown = ", ".join(f"{style} ({count[style]})" for style in few)
    line = f"no adapter for those with fewer than 9 conversations: {shown}\n"
    assert line in capsys.readouterr().err


def test_people_whose_ids_are_no_names_of_folders_get_some_that_are(
    run: Path, tmp_path: Path
) -> None:
    ids = ("../up", "Ann", "ann")
    chats = [
        {**one, "user_id": ids[number % 3]} for number, one in enumerate(make_conversations(12, 1))
    ]
    settings = Personas(by="user_id", min_conversations=2, rank=1, train=OPTIONS)
    made = train_adapters(str(run / "user_lm"), chats, settings, tmp_path / "personas", seed=0)
    names = [
        f"{name}-{stable_hash(value)[:8]}"
        for name, value in zip(("up", "ann", "ann"), ids, strict=True)
    ]
    assert sorted(made) == sorted(names)
    assert sorted(path.name for path in (tmp_path / "personas").iterdir()) == sorted(names)
    assert [about["filters"] for about in made.values()] == [{"user_id": [one]} for one in ids]


# ---- refusals --------------------------------------------------------------------------------


def test_nobody_with_conversations_enough_is_one_line(
    run: Path, chats: list[Any], tmp_path: Path
) -> None:
    settings = Personas(by="user_id", min_conversations=41, train=OPTIONS)
    with pytest.raises(UserError, match="nobody has 41 conversations in the train split"):
        train_adapters(str(run / "user_lm"), chats, settings, tmp_path, seed=0)


def test_a_base_that_is_no_user_lm_is_refused(run: Path, chats: list[Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no chat template; train it first"):
        train_adapters(str(run / "base"), chats, SETTINGS, tmp_path, seed=0)


def test_training_on_an_adapter_is_refused(run: Path, cli: Any, tmp_path: Path) -> None:
    adapter = run / "personas" / "busy"
    done = cli("train", "quickstart", f"base.model={adapter}", "base.scratch=null",
               "conversations.count=40", "--out", tmp_path / "out")  # fmt: skip
    assert f"{adapter}: is an adapter of " in done.error
    assert "userlm-synth merge" in done.error


# ---- the base that an adapter names ----------------------------------------------------------


def test_a_run_folder_that_was_moved_still_has_its_base(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = {**read(moved / "personas" / "busy"), "base_model_name_or_path": "/gone/user_lm"}
    (moved / "personas" / "busy" / "adapter_config.json").write_text(json.dumps(config))
    found = open_checkpoint(str(moved / "personas" / "busy")).model
    here = open_checkpoint(str(run / "personas" / "busy")).model
    assert torch.equal(logits(found), logits(here))


def test_another_model_at_the_place_of_the_base_is_not_taken_for_it(
    run: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    adapter = moved / "personas" / "busy"
    config = {**read(adapter), "base_model_name_or_path": str(moved / "user_lm")}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    shutil.rmtree(moved / "user_lm")
    shutil.copytree(moved / "base", moved / "user_lm")
    with pytest.raises(UserError) as caught:
        open_checkpoint(str(adapter))
    assert str(caught.value) == (
        f"{adapter}: the model that it was trained on, {fingerprint(str(run / 'user_lm'))}, is not "
        f"at {moved / 'user_lm'}; put it there, or train the adapter again"
    )


def test_an_adapter_that_does_not_fit_its_base_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "personas" / "busy", tmp_path / "foreign")
    (tmp_path / "foreign" / "userlm_synth.json").unlink()  # another's adapter says less of itself
    tok = toys.tokenizer()
    for layers, said in ((1, "does not fit the model"), (3, "does not fit the model")):
        other = tmp_path / f"of {layers} layers"
        checkpoint.save_checkpoint(toys.model(tok, hidden=32, layers=layers), tok, other, {})
        with pytest.raises(UserError, match=said):
            merge(str(other), str(tmp_path / "foreign"), tmp_path / "out")
    other = tmp_path / "narrow"
    checkpoint.save_checkpoint(toys.model(tok, hidden=16), tok, other, {})
    with pytest.raises(UserError, match="cannot be loaded as an adapter"):
        merge(str(other), str(tmp_path / "foreign"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- merge -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merge_makes_one_ordinary_checkpoint_in_the_user_lms_dtype(
    run: Path, tmp_path: Path, cli: Any, dtype: str
) -> None:
    user_lm, adapter, out = run / "user_lm", run / "personas" / "busy", tmp_path / "merged"
    if dtype == "bfloat16":  # the same user LM, kept in half the space
        user_lm, adapter = tmp_path / "user_lm", tmp_path / "personas" / "busy"
        tok = load_tokenizer(str(run / "user_lm"))
        half = load_model(str(run / "user_lm"))
        checkpoint.save_checkpoint(half, tok, user_lm, {}, dtype=torch.bfloat16)
        shutil.copytree(run / "personas" / "busy", adapter)
        about = {**read(adapter, "userlm_synth.json"), "made_from": fingerprint(str(user_lm))}
        (adapter / "userlm_synth.json").write_text(json.dumps(about))
    done = cli("merge", user_lm, adapter, "--out", out)
    assert (done.code, done.out) == (0, f"user LM: {out}\n")
    assert {one.dtype for one in load_file(out / "model.safetensors").values()} == {
        getattr(torch, dtype)
    }
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (user_lm / name).read_bytes()
    assert read(out, "userlm_synth.json") == {
        "made_from": fingerprint(str(user_lm)),
        "adapter": fingerprint(str(adapter)),
        "speaker": "user",
        "persona": "busy",
        "filters": {"metadata.style": ["terse", "lowercase"]},
    }
    model = load_model(str(user_lm))
    with attached(model, adapter):
        apart = logits(model)
    exact = dtype == "float32"
    assert torch.allclose(logits(load_model(str(out))), apart, atol=1e-5 if exact else 0.1)


def test_a_pair_that_does_not_belong_together_is_one_line(
    run: Path, tmp_path: Path, cli: Any
) -> None:
    adapter, out = run / "personas" / "busy", tmp_path / "out"
    wrong = cli("merge", run / "base", adapter, "--out", out).error
    assert wrong.startswith(f"error: {adapter}: was trained on user_lm#")
    swapped = cli("merge", adapter, run / "user_lm", "--out", out).error
    assert swapped.startswith(f"error: {run / 'user_lm'}: is not an adapter")
    nested = cli("merge", adapter, adapter, "--out", out).error
    assert "was trained on user_lm#" in nested
    assert not out.exists()


def test_merge_writes_over_nothing_and_leaves_nothing_half_done(
    run: Path, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    arguments = ("merge", run / "user_lm", run / "personas" / "busy", "--out")
    assert "exists already" in cli(*arguments, tmp_path / "full").error

    def torn(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", torn)
    assert "the disk is full" in cli(*arguments, tmp_path / "new").error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
