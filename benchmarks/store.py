"""How fast dialogues enter the store and leave it, and how large they are there.

    python benchmarks/store.py FOLDER/part-00000.jsonl --num 20000

FOLDER is any dialogues folder; its dialogues are written again and again under other ids, each turn
as it would come.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from userlm_synth.records import Record, read_records
from userlm_synth.simulate.store import Store, open_store


async def fill(store: Store, records: list[Record], num: int) -> None:
    for number in range(num):
        record = {**records[number % len(records)], "id": f"dlg-{number}"}
        for place, message in enumerate(record["messages"]):
            turn = {key: record[key] for key in ("end_probabilities", "guardrails", "usage")}
            await store.turn(record["id"], place, {"content": message["content"], **turn})
        if number % 64 == 0:
            await asyncio.sleep(0.01)  # dialogues take time: turns are written before they end
        await store.add(number, record, lambda: None)
    await store.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--num", type=int, default=20_000)
    options = parser.parse_args()
    records = read_records(options.file, "dialogue")
    with tempfile.TemporaryDirectory() as name, open_store(Path(name), {}) as store:
        started = time.monotonic()
        asyncio.run(fill(store, records, options.num))
        written = options.num / (time.monotonic() - started)
        started = time.monotonic()
        store.export()
        exported = options.num / (time.monotonic() - started)
        size = (Path(name) / "store.sqlite").stat().st_size / options.num
        text = sum(path.stat().st_size for path in Path(name).glob("part-*")) / options.num
    print(json.dumps({"written_per_second": written, "exported_per_second": exported,
                      "store_bytes": size, "jsonl_bytes": text}, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
