"""A checkpoint in process, through vLLM's engine: `vllm:PATH_OR_ID[@REVISION]`.

Prompts go in as token ids and every sampling field is said, so nothing of the checkpoint's own
defaults joins. Models of one base (adapters, or user and assistant alike) share one engine.
Arguments of `vllm serve` that fit an engine may stand in the environment variable
`USERLM_SYNTH_VLLM_ARGS`, as in `--max-model-len 8192 --tensor-parallel-size 2`; those of one side
alone in `USERLM_SYNTH_VLLM_ARGS_USER` and `USERLM_SYNTH_VLLM_ARGS_ASSISTANT`. Without
`--gpu-memory-utilization` the engines of a process share 0.9 of the device in equal parts.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

from userlm_synth.backends.first_token import FIELD
from userlm_synth.backends.interface import FirstToken, Request, Result, Signals
from userlm_synth.backends.reaper import Reaper
from userlm_synth.backends.vllm_settings import adapter_rank, arguments_of, engine_options, prepare
from userlm_synth.errors import UserError
from userlm_synth.user_lm import ChatFormat, load_tokenizer
from userlm_synth.user_lm.adapters import Adapter, find_adapter, model_fingerprint
from userlm_synth.user_lm.chat_format import special_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

_STARTING = threading.Lock()  # an engine measures the free memory, so they start one by one
_OPEN: dict[tuple[str, ...], Engine] = {}


class VLLMBackend:
    """One model, or one adapter, on an engine in a process of its own."""

    first_token: FirstToken = "native"

    def __init__(self, target: str, *, speaker: str) -> None:
        prepare(f"vllm:{target}")
        adapter = find_adapter(target)
        base = adapter.base if adapter else target
        self.tokenizer = load_tokenizer(base)
        self.form = ChatFormat.probe(self.tokenizer, "user" if speaker == "user" else "assistant")
        self.name = model_fingerprint(target)
        self.never = _markup(self.form)
        self.signals = Signals()
        self.context: int | None = None
        self.engine = Engine.of(base, arguments_of(speaker))
        self.adapter = self.engine.add(adapter)
        self.closed = False

    async def start(self) -> None:
        """Start the engine, which takes from seconds to minutes; `UserError` where it fails."""
        self.context = await self.engine.start()

    async def generate(self, request: Request) -> Result:
        """Sample one utterance; the engine batches all that are under way."""
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt = list(request.prompt_ids or self.form.prompt(list(request.messages)))
        room = (self.context or math.inf) - len(prompt)
        if room < 1:
            return Result(f"the prompt has {len(prompt)} tokens", "context_full")
        params = self._params(request, min(request.max_tokens, int(room)))
        try:
            output = await self.engine.ask(prompt, params, self.adapter)
        except EngineDeadError:
            raise UserError(
                f"vllm:{self.engine.base}: the engine died; see its messages above"
            ) from None
        except Exception as error:  # a request that vLLM refuses, by many classes
            first = (str(error).strip() or repr(error)).splitlines()[0]
            return Result(f"{type(error).__name__}: {first}", "error")
        return self._result(request, len(prompt), output)

    def _params(self, request: Request, max_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        banned = {*self.never, *request.banned}
        return SamplingParams(
            n=1, temperature=request.temperature, top_p=request.top_p, top_k=0, min_p=0.0,
            presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0,
            seed=request.seed % 2**63,
            max_tokens=max_tokens,
            stop_token_ids=list(request.stop_ids or self.form.stop_ids),
            ignore_eos=True,  # the checkpoint's; ours are said above
            logit_bias=dict.fromkeys(sorted(banned), -math.inf) or None,
            extra_args={FIELD: list(request.banned_first)} if request.banned_first else None,
            logprob_token_ids=None if request.end_id is None else [request.end_id],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip

    def _result(self, request: Request, prompt: int, output: Any) -> Result:
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            return Result(f"vllm: the request ended by {answer.finish_reason}", "error")
        kept = list(answer.token_ids)
        used, finish = len(kept), "length"
        if kept and kept[-1] in (request.stop_ids or self.form.stop_ids):
            finish = "end" if kept.pop() == request.end_id else "eot"
        return Result(
            text=self.tokenizer.decode(kept, skip_special_tokens=True),
            finish=finish,  # type: ignore[arg-type]
            token_ids=kept,
            prompt_tokens=prompt,
            completion_tokens=used,
            cached_tokens=output.num_cached_tokens or 0,
            end_probability=_probability(answer.logprobs, request.end_id),
        )

    async def waiting(self) -> int | None:
        """Requests that the engine has queued."""
        return self.engine.queued

    async def close(self) -> None:
        """Stop the engine, when all of its models are closed."""
        if not self.closed:
            self.closed = True
            await self.engine.leave()


class Engine:
    """vLLM's engine for one base model, and the adapters on it."""

    def __init__(self, base: str, arguments: Sequence[str]) -> None:
        self.base, self.arguments = base, list(arguments)
        self.adapters: list[Adapter] = []
        self.users, self.queued = 0, 0
        self.vllm: Any = None
        self.reaper: Reaper | None = None
        self.numbers = itertools.count()

    @classmethod
    def of(cls, base: str, arguments: Sequence[str]) -> Engine:
        """The engine of a base model; a second model of the same base gets the same."""
        return _OPEN.setdefault((base, *arguments), cls(base, arguments))

    def add(self, adapter: Adapter | None) -> int:
        """One more model: 0 for the base itself, else its adapter's number."""
        self.users += 1
        if adapter is None:
            return 0
        if adapter not in self.adapters:
            self.adapters.append(adapter)
        return self.adapters.index(adapter) + 1

    async def start(self) -> int:
        """The engine's context, in tokens, once it is there."""
        if self.vllm is None:
            await asyncio.to_thread(self._start)
        context: int = self.vllm.model_config.max_model_len
        return context

    def _start(self) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        with _STARTING:
            before = multiprocessing.active_children()
            ranks = [adapter_rank(one.folder) for one in self.adapters]
            options = engine_options(self.base, self.arguments, ranks, share=0.9 / len(_OPEN))
            try:
                self.vllm = AsyncLLM.from_engine_args(options, stat_loggers=[self._watch])
            except Exception as error:  # of any kind; the engine's process has said more
                first = (str(error).strip() or repr(error)).splitlines()[0]
                raise UserError(f"vllm:{self.base}: the engine did not start: {first}") from error
            new = [one for one in multiprocessing.active_children() if one not in before]
            self.reaper = Reaper([one.pid for one in new if one.pid])

    def _watch(self, *_: Any) -> Any:
        """What vLLM calls after every step with its figures."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        engine = self

        class Watch(StatLoggerBase):  # type: ignore[misc]
            def __init__(self) -> None:
                pass

            def record(self, scheduler_stats: Any = None, *_: Any, **__: Any) -> None:
                if scheduler_stats is not None:
                    engine.queued = scheduler_stats.num_waiting_reqs

            def log_engine_initialized(self) -> None:
                pass

        return Watch()

    async def ask(self, prompt: list[int], params: Any, adapter: int) -> Any:
        """The finished output of one request."""
        from vllm.lora.request import LoRARequest

        extra = {}
        if adapter:
            folder = str(self.adapters[adapter - 1].folder)
            extra["lora_request"] = LoRARequest(folder, adapter, folder)
        number = str(next(self.numbers))
        answers = self.vllm.generate(_tokens(prompt), params, number, **extra)
        return [one async for one in answers][-1]

    async def leave(self) -> None:
        """One model less; without any the engine stops."""
        self.users -= 1
        if self.users:
            return
        for key in [key for key, one in _OPEN.items() if one is self]:
            del _OPEN[key]
        if self.vllm is not None:
            self.vllm.shutdown()
            self.vllm = None
        if self.reaper is not None:
            self.reaper.dismiss()
            self.reaper = None


def _tokens(prompt: list[int]) -> Any:
    """A prompt as the engine takes it; before 0.12 or so it took only the plain kind."""
    try:
        from vllm.inputs.engine import tokens_input
    except ImportError:
        return {"prompt_token_ids": prompt}
    return tokens_input(prompt)


def _markup(form: ChatFormat) -> list[int]:
    """What a turn never holds: the special tokens that the template writes around turns."""
    written = {one for piece in (*form.pieces.values(), *form.opening.values()) for one in piece}
    tokenizer = form.tokenizer
    written |= {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return sorted((written & special_ids(tokenizer)) - set(form.stop_ids))


def _probability(logprobs: Any, token: int | None) -> float | None:
    """A token's probability at the first place, where the engine told it."""
    if token is None or not logprobs:
        return None
    found = logprobs[0].get(token)
    return math.exp(found.logprob) if found is not None else None
