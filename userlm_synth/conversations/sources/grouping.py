"""OpenAssistant's table of messages: rows of one tree put together, so that a tree is a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from userlm_synth.conversations.sources.files import Block, Fault, Numbered, rows
from userlm_synth.records import Record

MESSAGES = 2000  # of a block, about


def group_trees(blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks of `{message_tree_id, flat: [rows]}`, numbered anew, each with the number of its root.

    The rows of a tree have to stand together, as they do in OASST1 and 2; a tree that goes on later
    is a fault of that later row, because its first part has been given on by then.
    """
    seen: set[Any] = set()
    tree: Any = None
    held: list[tuple[int, Record | Fault]] = []
    count = number = 0
    last: Block | None = None
    for block in blocks:
        if last and block.file != last.file and held:
            yield Block(number, last.file, held[0][0], last.size, Numbered(held))
            held, count, number, tree = [], 0, number + 1, None
        last = block
        for place, row in rows(block):
            key = None if isinstance(row, Fault) else row.get("message_tree_id")
            if not isinstance(row, Fault) and key is not None and key == tree and held:
                held[-1][1]["flat"].append(row)  # type: ignore[index]
                count += 1
                continue
            if count >= MESSAGES:
                yield Block(number, block.file, held[0][0], block.size, Numbered(held))
                held, count, number = [], 0, number + 1
            tree, count = key, count + 1
            held.append((place, _opened(row, key, seen)))
            seen.add(key)
    if last and held:
        yield Block(number, last.file, held[0][0], last.size, Numbered(held))


def _opened(row: Record | Fault, tree: Any, seen: set[Any]) -> Record | Fault:
    """The first row of a tree as the tree's own."""
    if isinstance(row, Fault):
        return row
    if tree is None:
        return Fault("message_tree_id: is missing, and the rows before had one")
    if tree in seen:
        return Fault(f"message_tree_id: {tree!r:.60} stood further up; sort the rows by it")
    return {"message_tree_id": tree, "flat": [row]}
