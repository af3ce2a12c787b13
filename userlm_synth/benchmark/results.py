"""What came of a benchmark: the record in `benchmark.json`, and the lines of `revealed.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from userlm_synth.benchmark.dialogues import Dialogues
from userlm_synth.benchmark.figures import Held, domain_rows, task_rows
from userlm_synth.benchmark.shards import Judged, prompt_version
from userlm_synth.benchmark.word_match import SHARE, Revealed, kappa, match_turns
from userlm_synth.metrics import definitions
from userlm_synth.records import Record, stable_hash, user_turns

if TYPE_CHECKING:
    from userlm_synth.recipe import Assistant, Benchmark, Generate

VERSION = 1
#: Figures that the words alone can tell.
BY_WORDS = ("intent_coverage", "repeat_required", "skip_non_required")


@dataclass(frozen=True)
class Parts:
    """The sections of a recipe that a benchmark is made by, complete."""

    benchmark: Benchmark
    generate: Generate
    assistant: Assistant
    seed: int


class Results:
    """Dialogues whose turns were mapped to shards, by their words and, where there is one, by a
    judge; `tasks` by id."""

    def __init__(
        self, tasks: Mapping[str, Record], dialogues: Dialogues, judged: Judged | None
    ) -> None:
        self.tasks, self.dialogues, self.judged = tasks, dialogues, judged
        self.matched: dict[str, Revealed] = {}
        for one in dialogues.accepted:
            shards = [shard["text"] for shard in tasks[one["intent_id"]]["shards"]]
            self.matched[one["id"]] = match_turns(shards, user_turns(one["messages"]))

    # ---- as the figures see it ---------------------------------------------------------------

    def by_words(self) -> list[Held]:
        """The dialogues with the shards that their words reveal; nobody saw what they add."""
        return [_held(one, self.matched[one["id"]], None) for one in self.dialogues.accepted]

    def by_judge(self, judged: Judged) -> list[Held]:
        """The same as the judge sees them; nothing where it gave no answer."""
        found = ((one, judged.found.get(one["id"])) for one in self.dialogues.accepted)
        return [
            _held(one, seen.revealed, seen.added) if seen else _held(one, None, None)
            for one, seen in found
        ]

    # ---- as it is written --------------------------------------------------------------------

    def record(self, parts: Parts) -> Record:
        """What `benchmark.json` holds."""
        settings, judged, seed = parts.benchmark, self.judged, parts.seed
        by_words = self.by_words()
        main = self.by_judge(judged) if judged else by_words
        rows = domain_rows(self.tasks, main, seed)
        if judged:
            for row, words in zip(rows, domain_rows(self.tasks, by_words, seed), strict=True):
                row["by_words"] = {name: words["figures"][name] for name in BY_WORDS}
        kinds = Counter(one["domain"] for one in self.tasks.values())
        return {
            "version": VERSION,
            "seed": seed,
            "user": {"spec": parts.generate.user, "name": self.dialogues.user},
            "assistant": {"spec": parts.assistant.model, "name": self.dialogues.assistant},
            "shards_by": "judge" if judged else "words",
            "judge": self._about_judge(judged, str(settings.judge.model)) if judged else None,
            "tasks": {
                "file": settings.tasks,
                "hash": stable_hash(list(self.tasks.values()))[:16],
                "n": len(self.tasks),
                "math": kinds["math"],
                "code": kinds["code"],
            },
            "runs": settings.runs,
            "dialogues": self._counts(),
            "settings": _settings(parts),
            "definitions": _definitions(),
            "results": rows,
            "by_task": task_rows(self.tasks, main),
            "costs": self._costs(),
        }

    def _counts(self) -> Record:
        accepted, rejected = self.dialogues.accepted, self.dialogues.rejected
        regenerated: Counter[str] = Counter()
        for one in accepted:
            regenerated.update(one["guardrails"])
        reasons = Counter(one["reason"].partition(":")[0] for one in rejected)
        stops = Counter(one["stop_reason"] for one in accepted)
        return {
            "accepted": len(accepted),
            "rejected": dict(reasons.most_common()),
            "stop_reasons": dict(stops.most_common()),
            "regenerated": dict(regenerated.most_common()),
        }

    def _about_judge(self, judged: Judged, model: str) -> Record:
        """Who judged, how many dialogues, and how far the words agree on each shard and turn."""
        ratings: tuple[list[bool], list[bool]] = ([], [])
        for one in self.dialogues.accepted:
            if seen := judged.found.get(one["id"]):
                places = range(len(self.tasks[one["intent_id"]]["shards"]))
                both = (seen.revealed, self.matched[one["id"]])
                for yes, turns in zip(ratings, both, strict=True):
                    yes += [place in turn for turn in turns for place in places]
        n = len(ratings[0])
        same = sum(a == b for a, b in zip(*ratings, strict=True))
        return {
            "model": model,
            "prompt": prompt_version(),
            "judged": len(judged.found),
            "unjudged": dict(Counter(judged.lacking.values()).most_common()),
            "agreement_with_words": {
                "kappa": kappa(*ratings) if n else None,
                "same": 100 * same / n if n else None,
                "n": n,
            },
        }

    def _costs(self) -> Record:
        """Tokens and USD of all that the folder has seen, by who was asked."""
        costs: Record = {
            side: {
                "usd": self.dialogues.usd[side],
                "tokens": {kind: tokens[kind] for kind in ("prompt", "completion")},
            }
            for side, tokens in self.dialogues.tokens.items()
        }
        if self.judged:
            costs["judge"] = {"usd": self.judged.usd, "tokens": dict(self.judged.tokens)}
        return costs

    def lines(self) -> Iterator[Record]:
        """What `revealed.jsonl` holds: shards are numbered from 1, in the order of the task."""
        for one in self.dialogues.accepted:
            row = {
                "id": one["id"],
                "task": one["intent_id"],
                "repetition": one["metadata"]["repetition"],
                "stop_reason": one["stop_reason"],
                "by_words": _numbers(self.matched[one["id"]]),
            }
            if self.judged:
                seen = self.judged.found.get(one["id"])
                row["by_judge"] = seen and _numbers(seen.revealed)
                row["added"] = seen and seen.added
            yield row


def _held(dialogue: Record, revealed: Revealed | None, added: list[list[str]] | None) -> Held:
    messages = dialogue["messages"]
    return Held(
        dialogue["intent_id"], user_turns(messages), len(messages) // 2,
        dialogue["stop_reason"] == "solved", revealed, added,
    )  # fmt: skip


def _numbers(revealed: Revealed) -> list[list[int]]:
    return [sorted(place + 1 for place in turn) for turn in revealed]


def _settings(parts: Parts) -> Record:
    """What shaped the dialogues, as plain data (JSON has no tuples)."""
    rules = asdict(parts.generate.guardrails)
    rules["first_token_filter"] = list(rules["first_token_filter"])
    wanted = {
        "benchmark": (parts.benchmark, ("sandbox", "check_seconds")),
        "generate": (parts.generate, ("max_turns", "max_tokens", "temperature", "top_p")),
        "assistant": (parts.assistant, ("max_tokens", "temperature", "top_p", "system")),
    }
    found: Record = {
        section: {name: getattr(one, name) for name in names}
        for section, (one, names) in wanted.items()
    }
    found["generate"]["guardrails"] = rules
    return found


def _definitions() -> dict[str, str]:
    return {
        **definitions(),
        "turns": "user-assistant exchanges",
        "turn_variance": "divided by n - 1",
        "intervals": "95 % bootstrap percentiles over tasks",
        "by_words": f"all numbers of a shard and {SHARE:.0%} of its content words in one turn",
    }
