"""Flip a conversation: its K user turns and its end become K+1 training samples.

    userlm-synth flip conversations.jsonl --out samples.jsonl

Training itself takes all K+1 in one pass (`user_lm.render`); the samples are for people and for
other trainers to look at. Source: "Flipping the Dialogue", S2.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from userlm_synth.records import END_TOKEN, Message, Record, read_records, write_records
from userlm_synth.user_lm.render import user_prompt_messages


def flip(conversation: Record) -> list[Record]:
    """The samples of one conversation: u_1 | intent; u_t | intent, history; last, the end.

    A conversation that closes on a user turn has no end sample: nobody knows that the user left.
    """
    messages = user_prompt_messages(conversation)
    samples: list[Record] = []
    for place, message in enumerate(messages):
        if message["role"] == "user":
            samples.append(_sample(conversation, len(samples) + 1, messages[:place], message))
    if messages[-1]["role"] == "assistant":
        end: Message = {"role": "user", "content": END_TOKEN}
        samples.append({**_sample(conversation, len(samples) + 1, messages, end), "end": True})
    return samples


def _sample(conversation: Record, turn: int, prompt: list[Message], completion: Message) -> Record:
    return {
        "id": f"{conversation['id']}#{turn}",
        "conversation_id": conversation["id"],
        "turn": turn,
        "prompt": prompt,
        "completion": [completion],
        "end": False,
    }


def flip_file(source: Path, out: Path) -> int:
    """Flip every conversation of a file; returns the number of samples."""

    def samples() -> Iterator[Record]:
        for conversation in read_records(source, "conversation"):
            yield from flip(conversation)

    return write_records(out, samples(), "sample")
