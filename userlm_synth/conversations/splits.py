"""Which split a conversation belongs to: a keyed hash of its user, and of nothing else.

So no user is in two splits, the split stays the same when data is added, and each country's users
are divided in the same shares in expectation.
"""

from __future__ import annotations

import hashlib

from userlm_synth.errors import UserError
from userlm_synth.records import Record

SPLITS = ("train", "validation", "test")


def group_of(record: Record, split_by: str) -> str:
    """What is never divided between splits: the user, the conversation, or a metadata value."""
    if split_by == "user":
        user = record["user_id"]
        return f"user {user}" if user else f"conversation {record['id']}"
    if split_by == "conversation":
        return f"conversation {record['id']}"
    key = split_by.removeprefix("metadata.")
    if key not in record["metadata"]:
        raise UserError(
            f"conversations.split_by: conversation {record['id']!r} has no metadata.{key}; "
            f"it has: {', '.join(sorted(record['metadata'])) or 'none'}"
        )
    return f"{key} {record['metadata'][key]}"


def split_of(group: str, shares: tuple[float, float, float], seed: int) -> str:
    """The split of a group: a hash keyed by the seed, as a number in [0, 1), against the shares."""
    digest = hashlib.blake2b(group.encode(), key=f"split {seed}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < shares[0]:
        return "train"
    return "validation" if place < shares[0] + shares[1] else "test"
