"""What a run prints at its end: one table, two dialogues, and where to go from here."""

from __future__ import annotations

from pathlib import Path

from userlm_synth.recipe import Recipe
from userlm_synth.records import Record, parse_json


def evaluation_table(evaluation: Record) -> str:
    """Perplexities, leaving and first turns as aligned text; intervals in brackets."""
    lines = []
    for result in evaluation["results"]:
        name = result["fingerprint"]
        lines.append(f"{name} on {result['conversations']} ({result['n']} conversations)")
        for label, one in result["perplexity"].items():
            shown = "" if one["form"] == "chat" else f"  shown as {one['form']}"
            lines.append(_row(f"perplexity {label.replace('_', ' ')}", one, 2) + shown)
        if result["termination"]:
            lines.append(
                _row(
                    "end of dialogue F1",
                    {**result["termination"], "value": result["termination"]["f1"]},
                    1,
                )
            )
        if result["first_turns"]:
            lines.append(_row("first-turn diversity", result["first_turns"]["diversity"], 1))
    for human in evaluation["human"]:
        lines.append(f"people in {human['conversations']}")
        lines.append(_row("first-turn diversity", human["diversity"], 1))
    return "\n".join(lines)


def _row(label: str, one: Record, digits: int) -> str:
    low, high = one["interval"]
    return f"  {label:28} {one['value']:8.{digits}f}  [{low:.{digits}f}, {high:.{digits}f}]"


def print_summary(recipe: Recipe, out: Path) -> None:
    """Print what was made, from the run folder's own files."""
    manifest = parse_json((out / "manifest.json").read_bytes())
    print()
    if recipe.evaluate:
        evaluation = parse_json((out / "evaluation/evaluation.json").read_bytes())
        print(evaluation_table(evaluation))
    if recipe.generate:
        counts = manifest["stages"]["dialogues"]["summary"]
        rejected = sum(counts["rejected"].values())
        why = ", ".join(f"{reason} {n}" for reason, n in counts["rejected"].items())
        stops = ", ".join(f"{reason} {n}" for reason, n in counts["stop_reasons"].items())
        again = ", ".join(f"{reason} {n}" for reason, n in counts["regenerated"].items())
        print(f"dialogues\n  accepted {counts['accepted']} ({stops})")
        print(f"  rejected {rejected}" + (f" ({why})" if why else ""))
        print(f"  user turns sampled again: {again or 'none'}")
        _print_dialogues(out)
    print("\nwhere things are")
    for stage in manifest["stages"]:
        place = {"report": "report/index.html", "evaluation": "evaluation/evaluation.json"}
        print(f"  {stage:14} {out / place.get(stage, stage)}")
    if recipe.name == "quickstart":
        print(NEXT)


def _print_dialogues(out: Path) -> None:
    files = sorted((out / "dialogues").glob("part-*.jsonl"))
    lines = files[0].read_bytes().splitlines()[:2] if files else []
    for line in lines:
        one = parse_json(line)
        print(f"\n{one['intent']}")
        for message in one["messages"]:
            text = "".join(c if c.isprintable() else " " for c in message["content"])
            print(f"  {message['role'] + ':':11}{text}")
        print(f"  ({one['stop_reason']})")


NEXT = """
the real thing
  your own chats         userlm-synth recipes copy coffee mine.yaml
                         userlm-synth run mine.yaml conversations.source=chats.jsonl.gz
  a Hub base checkpoint  the same with base.scratch=null base.model=meta-llama/Llama-3.2-1B
                           train.max_length=2048 train.learning_rate=2e-5
  WildChat               userlm-synth prepare --source wildchat --out chats
                         userlm-synth intents make chats/train.jsonl --model SPEC --out FILE
  a published user LM    userlm-synth generate --user hf:microsoft/UserLM-8b --assistant SPEC
                           --intents intents.jsonl --out dialogues
  an assistant (SPEC)    openai:MODEL@http://localhost:8000/v1, as `vllm serve MODEL` opens it, or
                         any OpenAI-compatible server; its key is read from OPENAI_API_KEY"""
