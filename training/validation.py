"""A look at the model while it trains: perplexity on held-out people, and a sample of its turns.

Perplexity is over the words of the speaker's turns with the human history, as in evaluation, on a
fixed draw of the validation split; with the intent and without it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from userlm_synth.records import Record
from userlm_synth.training.batches import Batch, collate, micro_batches, pack
from userlm_synth.training.ranks import Ranks
from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm.chat_format import ChatFormat
from userlm_synth.user_lm.render import END, WORD, render_all, user_prompt_messages

if TYPE_CHECKING:
    from userlm_synth.recipe import Training

SAMPLED_TURNS, SAMPLED_TOKENS = 2, 40
TOP_P = 0.8  # the published model's setting


class Validation:
    """Held-out conversations of one run; call it with the objective to get figures and a sample."""

    def __init__(
        self, form: ChatFormat, conversations: Sequence[Record], options: Training, seed: int,
        ranks: Ranks,
    ) -> None:  # fmt: skip
        count = min(options.validation_conversations, len(conversations))
        rng = random.Random(f"validation {seed}")
        self.conversations = rng.sample(list(conversations), count)
        self.form, self.options, self.ranks, self.rng = form, options, ranks, rng
        knows = form.speaker == "user" and all(one["intent"] for one in self.conversations)
        self.windows = [
            Windows.of(
                render_all(
                    form, self.conversations, max_length=options.max_length, with_intent=shown
                )
            )
            for shown in ((None, lambda _: False) if knows else (lambda _: False,))
        ]
        self.calls = 0

    def __call__(self, objective: Any) -> tuple[dict[str, float], str]:
        """`perplexity` (with the intent where there are intents), `perplexity_no_intent`,
        `end_found`; and a sample as text."""
        import torch

        was_training = objective.training
        objective.eval()
        with torch.no_grad():
            figures: dict[str, float] = {}
            for windows in self.windows:
                nats, words, found, ends = self._pass(objective, windows)
                name = "perplexity_no_intent" if figures else "perplexity"
                figures[name] = math.exp(min(nats / max(words, 1), 700))
                if ends:
                    figures.setdefault("end_found", found / ends)
            one = self.conversations[self.calls % len(self.conversations)]
            text = self._sample(objective, one)
        self.calls += 1
        objective.train(was_training)
        return figures, text

    def _pass(self, objective: Any, windows: Windows) -> list[float]:
        """Sums over a pass: nats of words, words, ends found, ends."""
        import torch

        rows = pack(windows.lengths, self.options.max_length)
        at_once = max(1, self.options.micro_batch_tokens // self.options.max_length)
        sums = torch.zeros(4, dtype=torch.float64)
        for members in micro_batches(rows, self.ranks.rank, self.ranks.world, at_once):
            batch = collate(windows, members, self._pad).to(self.ranks.device)
            losses = objective(batch, 1.0)
            words, ends = batch.kinds == WORD, batch.kinds == END
            sums += torch.tensor(
                [float(losses.each[words].double().sum()), int(words.sum()),
                 int((losses.hits & ends).sum()), int(ends.sum())]
            )  # fmt: skip
        return list(self.ranks.sums(sums).tolist())

    @property
    def _pad(self) -> int:
        return int(self.form.tokenizer.pad_token_id)

    def _sample(self, objective: Any, conversation: Record) -> str:
        """The model's own words at the first places where the speaker spoke, after the human
        history, beside the person's."""
        user = self.form.speaker == "user"
        messages = user_prompt_messages(conversation) if user else conversation["messages"]
        lines, shown = [], 0
        places = [i for i, one in enumerate(messages) if one["role"] == self.form.speaker]
        for place in places[:SAMPLED_TURNS]:
            own = self._turn(objective, self.form.prompt(messages[:place]))
            lines += [f"{one['role']}: {one['content']}" for one in messages[shown:place]]
            lines += [f"person: {messages[place]['content']}", f"model: {own}"]
            shown = place + 1
        return "\n".join(" ".join(line.split()) for line in lines)

    def _turn(self, objective: Any, prompt: list[int]) -> str:
        """Sample one turn (temperature 1, top_p 0.8); every process computes the same tokens."""

        ids = prompt[-(self.options.max_length - SAMPLED_TOKENS) :]
        start = len(ids)
        while len(ids) - start < SAMPLED_TOKENS:
            batch = _to_continue(ids).to(self.ranks.device)
            chances = objective(batch, 1.0, True)[0].softmax(-1).cpu()
            ordered, tokens = chances.sort(descending=True)
            kept = ordered.cumsum(0) - ordered < TOP_P
            draw = self.rng.random() * float(ordered[kept].sum())
            index = int((ordered[kept].cumsum(0) < draw).sum().clamp(max=int(kept.sum()) - 1))
            ids.append(self.ranks.share(int(tokens[index])))
            if ids[-1] in self.form.stop_ids:
                break
        last = ids.pop() if ids[-1] in self.form.stop_ids else None
        text: str = self.form.tokenizer.decode(ids[start:])
        return f"{text} (leaves)" if last == self.form.end_id is not None else text


def _to_continue(ids: list[int]) -> Batch:
    """One sequence whose only target is the token after its last."""
    import torch

    column = torch.tensor([len(ids) - 1])
    zero = torch.zeros(1, dtype=torch.long)
    return Batch(
        ids=torch.tensor([ids]), positions=torch.arange(len(ids))[None],
        offsets=torch.tensor([0, len(ids)], dtype=torch.int32), segments=(len(ids),), at=column,
        labels=zero, kinds=zero, turns=zero, owners=zero, weights=torch.ones(1),
    )  # fmt: skip
