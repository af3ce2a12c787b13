"""The result for people: two Markdown tables and a verdict in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from userlm_synth.records import Record

NAMES = {"none": "none (the base)", "real": "real", "generated": "generated", "both": "both"}
#: What people want to know: (arm, beside which, question)
QUESTIONS = (
    ("generated", "none", "Do generated dialogues teach anything?"),
    ("generated", "real", "Are they worth as much as real ones?"),
    ("both", "real", "Do they add to real ones?"),
)


def utility_table(result: Record) -> str:
    """`table.md`: the arms, the pairs, the verdict, and what the sets share with the test."""
    test = result["test"]
    lines = [
        f"Perplexity of {test['turns']:,} real assistant turns ({test['conversations']:,} held-out "
        "conversations), given human histories.",
        "",
        *_arms(result),
        "",
        *_pairs(result),
        "",
        *(f"- {line}" for line in verdict(result)),
        "",
        *(f"- {line}" for line in _shared(result)),
    ]
    return "\n".join(lines) + "\n"


def _arms(result: Record) -> Iterator[str]:
    yield "| trained on | dialogues | passes | steps | words and ends seen | perplexity | by seed |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for arm in result["arms"]:
        low, high = arm["perplexity"]["interval"]
        figure = f"{arm['perplexity']['value']:.2f} [{low:.2f}, {high:.2f}]"
        sizes = arm["sizes"]
        if sizes is None:
            form = "chat form" if arm["form"] == "chat" else f"as {arm['form']}"
            yield f"| {NAMES[arm['arm']]}, {form} | - | - | - | - | {figure} | - |"
            continue
        seen = " / ".join(f"{one['seen']:,}" for one in arm["models"])
        seeds = " / ".join(f"{one['perplexity']:.2f}" for one in arm["models"])
        yield (
            f"| {NAMES[arm['arm']]} | {sizes['conversations']:,} | {sizes['passes']:.2f} | "
            f"{sizes['steps']:,} | {seen} | {figure} | {seeds} |"
        )


def _pairs(result: Record) -> Iterator[str]:
    yield "| perplexity of | over that of | ratio | over seeds | by seed | outside chance |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for pair in result["pairs"]:
        seeds = " / ".join(f"{one:.3f}" for one in pair["by_seed"])
        over = _interval(pair["seed_interval"]) if pair["seed_interval"] else "-"
        said = ("lower" if pair["ratio"] < 1 else "higher") if pair["outside"] else "no"
        cells = [pair["arm"], pair["beside"], _ratio(pair), over, seeds, said]
        yield f"| {' | '.join(cells)} |"


def _interval(one: Sequence[float]) -> str:
    return f"[{one[0]:.3f}, {one[1]:.3f}]"


def _ratio(pair: Record) -> str:
    return f"{pair['ratio']:.3f} {_interval(pair['interval'])}"


def verdict(result: Record) -> list[str]:
    """A line a question, whatever the answer is."""
    pairs = {(one["arm"], one["beside"]): one for one in result["pairs"]}
    return [f"{question} {_answer(pairs[arm, beside])}" for arm, beside, question in QUESTIONS]


def _answer(pair: Record) -> str:
    ratios = pair["by_seed"]
    lower = sum(one < 1 for one in ratios)
    word, answer, agree = ("lower", "Yes", lower)
    if pair["ratio"] >= 1:
        word, answer, agree = ("higher", "No", len(ratios) - lower)
    figure = (
        f"the perplexity of {pair['arm']} is {_ratio(pair)} times that of {pair['beside']}, "
        f"{word} with {agree} of {len(ratios)} seeds"
    )
    if len(ratios) == 1:
        figure += " (what another seed would do is not known)"
    if not pair["outside"]:
        return f"No difference outside chance: {figure}."
    return f"{answer}: {figure}."


def _shared(result: Record) -> Iterator[str]:
    turns = result["test"]["turns"]
    for name, leak in result["leaks"].items():
        yield (
            f"{name}: {leak['turns']:,} of the {turns:,} test turns are said there too, word for "
            f"word, and {leak['openings']:,} test conversations open alike"
        )
        if leak["goals"]:
            yield (
                f"{name}: {leak['goals']:,} dialogues are made from the intents of test "
                "conversations, so this arm knows what the test is about"
            )
    if dropped := result["test"]["dropped"]:
        yield f"{dropped:,} test conversations were in a training set, and are left out"
