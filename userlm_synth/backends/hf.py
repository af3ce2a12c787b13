"""A checkpoint in process, through transformers' `generate`, batched over waiting requests.

Requests that arrive while the model is busy form the next batch. Each row draws its randomness
from its own seed (one uniform number a token, by inverse transform sampling), so what a dialogue
says does not depend on the batch it happened to be in, up to floating-point rounding.
"""

from __future__ import annotations

import asyncio
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from userlm_synth.backends.interface import FirstToken, Request, Result, Signals
from userlm_synth.backends.kv_cache import SessionCache
from userlm_synth.user_lm import ChatFormat
from userlm_synth.user_lm.adapters import open_checkpoint
from userlm_synth.user_lm.chat_format import special_ids

if TYPE_CHECKING:
    import torch

# Two models on one device take turns: one thread for all of them.
_DEVICE = ThreadPoolExecutor(max_workers=1, thread_name_prefix="userlm_synth-device")


class HFBackend:
    """One local model; `batch` is the largest number of rows generated together."""

    first_token: FirstToken = "native"

    def __init__(self, target: str, *, speaker: str, batch: int = 64) -> None:
        import torch
        from transformers import GenerationConfig

        # Of newer versions of transformers, which call it `cache`; older ones know no other name.
        warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
        self.tokenizer, model, self.name = open_checkpoint(target)
        self.form = ChatFormat.probe(self.tokenizer, "user" if speaker == "user" else "assistant")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        # A checkpoint's own defaults (penalties, sampling) must not join what we ask for.
        self.model.generation_config = GenerationConfig()
        self.batch = batch
        self.cache = SessionCache()
        self.context: int | None = self.model.config.max_position_embeddings
        # Markup is not for models to write (and some of Gemma's has no row in the head).
        markup = special_ids(self.tokenizer) - set(self.form.stop_ids)
        rows = self.model.get_output_embeddings().weight.shape[0]
        self.never = sorted(token for token in markup if token < rows)
        self.signals = Signals()
        self.queue: list[tuple[Request, asyncio.Future[Result]]] = []
        self.worker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Nothing to do: the model is loaded."""

    async def generate(self, request: Request) -> Result:
        """Queue a request for the next batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.queue.append((request, future))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._serve())
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self.queue:
            await asyncio.sleep(0)  # let every dialogue that is ready queue its request
            self.queue.sort(key=lambda pair: pair[0].session)
            taken, self.queue = self.queue[: self.batch], self.queue[self.batch :]
            try:
                results = await loop.run_in_executor(_DEVICE, self.run, [r for r, _ in taken])
            except Exception as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(taken, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def waiting(self) -> int | None:
        """Requests for the batches to come."""
        return len(self.queue)

    async def close(self) -> None:
        """Stop serving."""
        if self.worker:
            await asyncio.gather(self.worker, return_exceptions=True)

    def run(self, requests: list[Request]) -> list[Result]:
        """One utterance a request, in one call of `generate` on a left-padded batch."""
        import torch
        from transformers import LogitsProcessorList

        prompts = [list(r.prompt_ids or self.form.prompt(list(r.messages))) for r in requests]
        sessions = [r.session for r in requests]
        pad = self.tokenizer.pad_token_id
        layout = self.cache.lay_out(sessions, prompts, pad)
        width = len(layout.ids[0])
        stops = sorted({i for r in requests for i in (r.stop_ids or self.form.stop_ids)})
        sampler = SeededSampler(requests, self.never, stops[0], width)
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=torch.tensor(layout.ids, device=self.device),
                attention_mask=torch.tensor(layout.mask, device=self.device),
                past_key_values=layout.cache,
                do_sample=False,  # the sampler leaves one token with any probability
                max_new_tokens=max(r.max_tokens for r in requests),
                eos_token_id=stops,
                pad_token_id=pad,
                logits_processor=LogitsProcessorList([cast(Any, sampler)]),
                return_dict_in_generate=True,
            )
            rows = output.sequences[:, width:].tolist()
            self.cache.keep(sessions, layout, rows, output.past_key_values)
        return [
            self._result(*args, sampler)
            for args in enumerate(zip(requests, prompts, rows, strict=True))
        ]

    def _result(
        self, row: int, parts: tuple[Request, list[int], list[int]], sampler: SeededSampler
    ) -> Result:
        request, prompt, ids = parts
        stops = set(request.stop_ids or self.form.stop_ids)
        finish, kept = "length", ids[: request.max_tokens]
        for place, token in enumerate(kept):
            if token in stops:
                finish = "end" if token == request.end_id else "eot"
                kept = ids[:place]
                break
        return Result(
            text=self.tokenizer.decode(kept, skip_special_tokens=True),
            finish=finish,  # type: ignore[arg-type]
            token_ids=kept,
            prompt_tokens=len(prompt),
            completion_tokens=len(kept) + (finish != "length"),
            end_probability=sampler.end_probability[row],
        )


class SeededSampler:
    """A logits processor that samples: temperature, then top-p, each row by its own seed.

    Inverse transform sampling over the tokens sorted by probability: with u uniform in [0, 1),
    the first token whose cumulative probability exceeds u times the kept mass. Greedy where the
    temperature is 0. All other logits become -inf, so `generate`'s argmax is the sample.
    """

    def __init__(self, requests: list[Request], never: list[int], stop: int, width: int) -> None:
        self.requests, self.never, self.stop, self.width = requests, never, stop, width
        self.draws = [random.Random(r.seed) for r in requests]
        self.end_probability: list[float | None] = [None] * len(requests)
        self.tensors: dict[str, Any] = {}

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[R, V] logits of the next token -> the same shape, one finite logit a row."""
        import torch

        step = ids.shape[1] - self.width
        scores = scores.float()
        if step == 0:
            self._measure(scores)
        scores[:, self.never] = -torch.inf
        for row, request in enumerate(self.requests):
            if request.banned:
                scores[row, list(request.banned)] = -torch.inf
            if step == 0 and request.banned_first:
                scores[row, list(request.banned_first)] = -torch.inf
        chosen = self._sample(scores)
        for row, request in enumerate(self.requests):
            if step >= request.max_tokens:  # the batch goes on, this row does not
                chosen[row] = self.stop
        out = torch.full_like(scores, -torch.inf)
        return out.scatter_(1, chosen[:, None], 0.0)

    def _measure(self, scores: torch.Tensor) -> None:
        """The probability of leaving as the model has it, before temperature, top-p and bans."""
        chances = scores.softmax(-1)
        for row, request in enumerate(self.requests):
            if request.end_id is not None:
                self.end_probability[row] = float(chances[row, request.end_id])

    def _sample(self, scores: torch.Tensor) -> torch.Tensor:
        import torch

        if "u" not in self.tensors:
            columns = [[r.temperature or 1.0, r.top_p] for r in self.requests]
            self.tensors["u"] = torch.tensor(columns, device=scores.device)
        temperature, top_p = self.tensors["u"].unbind(1)
        chances, order = (
            (scores / temperature[:, None]).softmax(-1).sort(dim=-1, descending=True, stable=True)
        )
        total = chances.cumsum(-1)
        kept = chances * ((total - chances) < top_p[:, None])
        total = kept.cumsum(-1)
        draws = torch.tensor([d.random() for d in self.draws], device=scores.device)
        place = (total <= draws[:, None] * total[:, -1:]).sum(-1)
        greedy = torch.tensor([r.temperature == 0 for r in self.requests], device=scores.device)
        last = (kept > 0).sum(-1) - 1  # a draw may round up to 1
        place = place.minimum(last).masked_fill(greedy, 0)
        chosen: torch.Tensor = order.gather(1, place[:, None])[:, 0]
        return chosen
