"""What a run prints at its end: one table, two dialogues, and where to go from here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from userlm_synth.evaluation.columns import (
    BITS,
    PERPLEXITY,
    SIX,
    Figure,
    by_file,
    columns,
    estimate,
    fixed,
    is_human,
    measured,
    reasons,
    shortened,
)
from userlm_synth.pages import printable
from userlm_synth.recipe import Recipe
from userlm_synth.records import Record, parse_json

LABEL = 32  # columns of the terminal that a model's name may take


def evaluation_table(evaluation: Record) -> str:
    """Each figure of Tables 1, 2 and 4 for all models and people, as aligned text."""
    lines = [line for file, rows in by_file(evaluation) for line in _file_table(file, rows)]
    legend = "[95 % interval], n: how many were measured; all but perplexity and bits are x 100"
    return "\n".join([*lines, legend, *_not_measured(evaluation["results"])])


def _file_table(file: Record, rows: list[Record]) -> list[str]:
    lines = [
        f"{printable(file['file'])}: {file['n']:,} conversations ({file['with_intent']:,} with an "
        f"intent), {file['user_turns']:,} user turns, {file['ends']:,} ends"
    ]
    models = [row for row in rows if not is_human(row)]
    lines += _block("Perplexity, lower is better: how hard real words are to foresee",
                    models, PERPLEXITY, ("without intent", "with intent"))  # fmt: skip
    lines += _block("Bits per byte, lower is better: the same, to compare tokenizers",
                    models, BITS, ("without intent", "with intent"))  # fmt: skip
    for figure in SIX:
        title = f"{figure.name}, {figure.better} is better: {figure.about}"
        lines += _block(title, rows, (figure,), ("",))
    return [*lines, ""]


def _block(
    title: str, rows: list[Record], figures: Sequence[Figure], heads: Sequence[str]
) -> list[str]:
    """A title, and a line a row; nothing where nothing is measured."""
    shown = [at for at, figure in enumerate(figures) if measured(rows, figure)]
    if not shown:
        return []
    names = [shortened(row["label"], LABEL) for row in rows]
    width = max(map(columns, names), default=0)
    over = "".join(f"{heads[at]:38}" for at in shown).rstrip()
    lines = ["", title, *([f"  {' ' * width}  {over}"] if over else [])]
    for name, row in zip(names, rows, strict=True):
        cells = [_cell(estimate(row, figures[at]), figures[at].digits) for at in shown]
        lines.append(f"  {name}{' ' * (width - columns(name))}  {''.join(cells)}".rstrip())
    return lines


def _cell(one: Record | None, digits: int) -> str:
    if one is None:
        return f"{'-':>8}{'':30}"
    low, high = one["interval"]
    text = f"{fixed(one['value'], digits):>8}  [{fixed(low, digits)}, {fixed(high, digits)}]"
    return f"{text:26} n {one['n']:<9,}"


def _not_measured(rows: list[Record]) -> list[str]:
    """Each reason once, with what it left out; people's are clear from the figure."""
    found = reasons([row for row in rows if not is_human(row)], (*PERPLEXITY, *SIX))
    lines = ["\nnot measured"] if found else []
    for why, some in found.items():
        names = [f"{', '.join(figures)} ({_some(labels)})" for figures, labels in some]
        lines.append(f"  {'; '.join(names)}: {printable(why)}")
    return lines


def _some(labels: list[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = [shortened(one, LABEL) for one in labels]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)


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
            print(f"  {message['role'] + ':':11}{printable(message['content'])}")
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
