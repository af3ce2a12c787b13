"""How often guardrails refuse what real people wrote, what they find, and what they cost.

    python benchmarks/guardrails.py [FOLDER] [--show]

FOLDER (default: USERLM_SYNTH_DATA) holds real text: coffee orders (Taskmaster-4), chats
(Topical-Chat), message trees (OpenAssistant) and prompts (Arena-Hard). A user's turn that is
refused is a false alarm; an assistant's that is refused is what a role break should find. `--show`
prints the false alarms. Synthetic turns are left out.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from userlm_synth.language import detect
from userlm_synth.recipe import Guardrails, load_recipe
from userlm_synth.records import Message
from userlm_synth.simulate.guardrails import MARKUP, fault
from userlm_synth.simulate.roles import breaks_role, runs_on

Turn = tuple[str, list[Message], str]  # what is said, the messages before it, the intent
CHECKS: dict[str, Callable[[str], bool]] = {
    "role_break": breaks_role,
    "run_on": runs_on,
    "control_tokens": lambda text: MARKUP.search(text) is not None,
    "language_drift (en)": lambda text: detect(text) not in (None, "en"),
}


def rows(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def trees(folder: Path, role: str) -> list[str]:
    """What one side wrote in the OpenAssistant trees."""

    def walk(node: Any) -> Iterator[str]:
        if node["role"] == role and not node.get("synthetic"):
            yield node["text"]
        for reply in node["replies"]:
            yield from walk(reply)

    found = rows(folder / "oasst_en_100_trees.jsonl.gz")
    return [text for tree in found for text in walk(tree["prompt"])]


def talks(folder: Path, name: str) -> list[Turn]:
    """The user's turns of a file of conversations, with what came before."""
    return [
        (message["content"], chat["messages"][:place], chat["intent"])
        for chat in rows(folder / f"{name}.jsonl.gz")
        for place, message in enumerate(chat["messages"])
        if message["role"] == "user"
    ]


def people(folder: Path) -> dict[str, list[str]]:
    """User turns by where they are from."""
    prompts = rows(folder / "arena_hard_prompts.jsonl.gz")
    return {
        "Taskmaster-4 coffee": [text for text, _, _ in talks(folder, "coffee")],
        "Topical-Chat": [text for text, _, _ in talks(folder, "topical")],
        "OpenAssistant prompters": trees(folder, "prompter"),
        "Arena-Hard prompts": [row["turns"][0]["content"] for row in prompts],
    }


def assistants(folder: Path) -> list[str]:
    """Turns that people wrote in the assistant's role."""
    return trees(folder, "assistant")


def print_checks(folder: Path, show: bool) -> None:
    """One line a check: the share refused of each kind of turn."""
    kinds = {**people(folder), "OpenAssistant assistants": assistants(folder)}
    print("| check | " + " | ".join(f"{name} ({len(kinds[name]):,})" for name in kinds) + " |")
    print("| --- " * (len(kinds) + 1) + "|")
    for check, refuses in CHECKS.items():
        found = {name: [text for text in turns if refuses(text)] for name, turns in kinds.items()}
        cells = [
            f"{len(found[name]) / len(kinds[name]):.2%} ({len(found[name])})" for name in kinds
        ]
        print("| " + " | ".join([f"`{check}`", *cells]) + " |")
        for name in kinds if show else ():
            for text in found[name] if "assistants" not in name else ():
                print(f"    {check}: {name}: {text[:120]!r}")


def print_repeats(folder: Path) -> None:
    """What people repeat of their own earlier turns, or of their intent."""
    only = Guardrails(role_break=False, run_on=False, control_tokens=False)
    for name in ("coffee", "topical"):
        turns = talks(folder, name)
        reasons = [fault(text, "eot", before, intent, only) for text, before, intent in turns]
        shares = [
            f"{reason} {reasons.count(reason) / len(turns):.2%} ({reasons.count(reason)})"
            for reason in ("repeats_a_turn", "repeats_the_intent")
        ]
        print(f"{name}: of {len(turns):,} turns {', '.join(shares)}")


def print_languages() -> None:
    """Short turns in the languages of `benchmarks/language.py`: surely in another one."""
    written = importlib.import_module("language").written()
    wrong = [(name, found) for name, text in written if (found := detect(text)) not in (None, name)]
    unsure = sum(detect(text) is None for _, text in written)
    print(
        f"{len(written)} short turns in 25 languages: language_drift {len(wrong)}, unsure {unsure}"
    )


def print_speed(folder: Path) -> None:
    """Microseconds of a whole `fault` a turn, in the CPU time of this process; best of five."""
    recipe = load_recipe("corpus-guarded").generate
    assert recipe
    for name, rules, language in (
        ("defaults", Guardrails(), None),
        ("corpus-guarded", recipe.guardrails, None),
        ("defaults, language: en", Guardrails(), "en"),
    ):
        for file in ("coffee", "topical"):
            turns = talks(folder, file)[:3000]
            best = min(one_pass(turns, rules, language) for _ in range(1 if language else 5))
            words = sum(len(text.split()) for text, _, _ in turns) / len(turns)
            print(f"{name}: {best * 1e6:.1f} microseconds a turn of {file} ({words:.0f} words)")


def one_pass(turns: list[Turn], rules: Guardrails, language: str | None) -> float:
    started = time.process_time()
    for text, before, intent in turns:
        fault(text, "eot", before, intent, rules, language=language)
    return (time.process_time() - started) / len(turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("USERLM_SYNTH_DATA"))
    parser.add_argument("--show", action="store_true", help="print the false alarms")
    options = parser.parse_args()
    if not options.folder:
        parser.error("name the folder with the real text, or set USERLM_SYNTH_DATA")
    folder = Path(options.folder)
    print_checks(folder, options.show)
    print_repeats(folder)
    print_languages()
    print_speed(folder)


if __name__ == "__main__":
    main()
