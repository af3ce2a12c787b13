"""What a reader has to know of the columns of a table: whose they are, how many dialogues there
were, who judged, what is not the same, what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from userlm_synth.money import usd
from userlm_synth.records import Record

INTERVALS = "In brackets: 95 % bootstrap interval over tasks (of a range: of its two ends)."
#: What has to be the same for two benchmarks to be compared, as paths into `benchmark.json`.
SAME = (
    "tasks.hash", "runs", "assistant.name", "shards_by", "judge.model", "judge.prompt",
    "settings.generate", "settings.assistant", "settings.benchmark",
)  # fmt: skip


def label_of(spec: str) -> str:
    """A SPEC as a heading: its model's name alone; `prompted` stays."""
    kind, colon, rest = spec.partition(":")
    if kind == "prompted" and colon:
        return f"prompted {label_of(rest)}"
    if colon and kind in ("hf", "openai", "scripted", "vllm"):
        spec = rest.partition("@http")[0] if kind == "openai" else rest
    parts = [part for part in spec.split("/") if part] or [spec]
    return "/".join(parts[-2:]) if parts[-1] == "user_lm" else parts[-1]


def labels(benchmarks: Sequence[Record]) -> list[str]:
    """A heading for each, numbered where two would be the same."""
    names = [label_of(one["user"]["spec"]) for one in benchmarks]
    return [
        f"{name} ({names[: at + 1].count(name)})" if names.count(name) > 1 else name
        for at, name in enumerate(names)
    ]


def differences(benchmarks: Sequence[Record]) -> list[str]:
    """What is not the same in benchmarks that stand side by side, one line each."""
    found = []
    for path in SAME:
        values = [_at(one, path) for one in benchmarks]
        if any(value != values[0] for value in values):
            shown = " / ".join(str(value) for value in values)
            told = shown if len(shown) <= 120 else "see benchmark.json"
            found.append(f"not the same in these columns: {path} ({told})")
    return found


def _at(record: Record, path: str) -> object:
    value: object = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def notes(label: str, one: Record) -> Iterator[str]:
    """What a reader has to know about a column, in lines."""
    tasks, made = one["tasks"], one["dialogues"]
    kinds = ", ".join(f"{tasks[name]} {name}" for name in ("math", "code") if tasks[name])
    rejected = ", ".join(f"{n} {why}" for why, n in made["rejected"].items())
    stops = ", ".join(f"{n} {why}" for why, n in made["stop_reasons"].items())
    yield (
        f"{label}: tasks {tasks['n']} ({kinds}) x runs {one['runs']}, assistant "
        f"{label_of(one['assistant']['spec'])}: dialogues {made['accepted']}"
        f"{f' ({stops})' if stops else ''}; rejected and in no figure: {rejected or 'none'}"
    )
    yield f"{label}: a dialogue ends when a solution passes, or after {_cap(one)} user turns"
    if made["accepted"]:
        yield f"{label}: {_shards_by(one)}"
    whole = one["results"][0]
    for why in dict.fromkeys(whole["not_measured"].values()):
        names = [name for name, reason in whole["not_measured"].items() if reason == why]
        yield f"{label}: not there: {', '.join(map(_plainly, names))}: {why}"
    words = whole.get("by_words", {})
    shown = [f"{_plainly(name)} {found['value']:.1f}" for name, found in words.items() if found]
    if shown:
        yield f"{label}: by the words instead of the judge: {', '.join(shown)}"
    yield f"{label}: cost {_costs(one)}"


def _plainly(name: str) -> str:
    return name.replace("_", " ")


def _cap(one: Record) -> int:
    return int(one["settings"]["generate"]["max_turns"])


def _shards_by(one: Record) -> str:
    judge = one["judge"]
    if judge is None:
        return "which shards are revealed is told by their words alone (no judge)"
    text = f"which shards are revealed is judged by {label_of(judge['model'])}"
    agreed = judge["agreement_with_words"]
    if agreed["n"]:
        kappa = "" if agreed["kappa"] is None else f", Cohen's kappa {agreed['kappa']:.2f}"
        text += (
            f"; the words alone say the same of {agreed['same']:.1f} % of {agreed['n']:,} "
            f"(turn, shard) pairs{kappa}"
        )
    if unjudged := sum(judge["unjudged"].values()):
        first = next(iter(judge["unjudged"]))
        text += f"; left out without a usable answer: {unjudged} ({first})"
    return text


def _costs(one: Record) -> str:
    parts = []
    for side, cost in one["costs"].items():
        read, written = (cost["tokens"].get(kind, 0) for kind in ("prompt", "completion"))
        money = "no price" if cost["usd"] is None else usd(cost["usd"])
        parts.append(f"{side} {money} ({read:,} tokens read, {written:,} written)")
    return "; ".join(parts)


def all_notes(benchmarks: Sequence[Record]) -> list[str]:
    """The lines under the tables."""
    pairs = zip(labels(benchmarks), benchmarks, strict=True)
    return [
        INTERVALS,
        *differences(benchmarks),
        *(line for label, one in pairs for line in notes(label, one)),
    ]
