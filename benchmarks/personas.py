"""Personalised user LMs against the general one, on toys: the table in docs/personalised.md.

    python benchmarks/personas.py DATA     # a folder with coffee.jsonl.gz and topical.jsonl.gz

Ratios of perplexities, personalised to general; the settings are those of tests/test_personas.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import test_personas as toys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            world = toys.World(Path(folder), 500, seed)
            rows["persona text, six styles"].append(toys.persona_ratios(world))
            found = toys.adapter_ratios(world)
            rows["own logs of one user"].append(toys.logs_ratios(world))
            found |= toys.domain_ratios(options.data, Path(folder) / "domains", seed)
            for name, sides in found.items():
                ratios = sides["own"]["ratio"], sides["others"]["ratio"]
                rows[f"adapter, {name}"].append(ratios)
    print("| way | on its own people | on others |")
    print("| --- | --- | --- |")
    for way, pairs in rows.items():
        own, others = (", ".join(f"{one:.2f}" for one in side) for side in zip(*pairs, strict=True))
        print(f"| {way} | {own} | {others} |")


if __name__ == "__main__":
    main()
