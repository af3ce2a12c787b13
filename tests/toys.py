"""Tiny real parts that the tests share: a tokenizer, models, conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from userlm_synth.recipe import Scratch, Training
from userlm_synth.records import Record
from userlm_synth.training.train import train_on_turns
from userlm_synth.user_lm import train_tokenizer, untrained_model
from userlm_synth.user_lm.checkpoint import save_checkpoint

INTENT = "You are a user chatting with an assistant language model to order a small latte."
TEXTS = [
    "could i get a small latte please",
    "Sure! Is that for here or to go?",
    "to go, thanks",
    "It will be ready in five minutes.",
    INTENT,
]


def tokenizer(vocabulary: int = 420) -> Any:
    """A byte-level BPE tokenizer that knows a few words."""
    return train_tokenizer(TEXTS * 5, vocabulary)


def model(tok: Any, seed: int = 0, hidden: int = 16, layers: int = 2) -> Any:
    """A Llama of a few thousand random weights, fp32."""
    return untrained_model(
        Scratch(vocabulary=420, hidden=hidden, layers=layers, heads=2), tok, 512, seed
    )


def conversation(*turns: str, intent: str | None = INTENT, number: int = 0) -> Record:
    """A conversation of some turns, user first."""
    return {
        "id": f"toy-{number}",
        "source": "toy",
        "user_id": None,
        "language": "en",
        "intent": intent,
        "persona": None,
        "messages": [
            {"role": ("user", "assistant")[place % 2], "content": text}
            for place, text in enumerate(turns)
        ],
        "metadata": {},
    }


def trained_user_lm(folder: Path, chats: list[Record], epochs: int) -> Path:
    """`folder/base` and from it `folder/user_lm`, which nearly knows `chats` by heart."""
    tok = tokenizer()
    save_checkpoint(model(tok, hidden=32), tok, folder / "base", {})
    options = Training(
        epochs=epochs, learning_rate=1e-2, max_length=256, batch_tokens=512, precision="fp32"
    )
    train_on_turns(str(folder / "base"), chats, options, folder / "user_lm", speaker="user", seed=0)
    return folder / "user_lm"


def read_json(folder: Path, name: str = "adapter_config.json") -> Any:
    """A JSON file of a folder."""
    return json.loads((folder / name).read_text())


def adapter_weights(folder: Path) -> dict[str, bytes]:
    """The weights of every adapter in a folder, by its name."""
    return {
        path.parent.name: path.read_bytes() for path in folder.glob("*/adapter_model.safetensors")
    }
