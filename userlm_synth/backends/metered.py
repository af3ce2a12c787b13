"""A backend whose requests are paid: reserved before they are sent, settled when answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from userlm_synth.backends.prompted import PromptedBackend
from userlm_synth.errors import UserError
from userlm_synth.money import Price, most_tokens

if TYPE_CHECKING:
    from userlm_synth.backends import Backend, Request, Result
    from userlm_synth.backends.interface import FirstToken, Signals
    from userlm_synth.money import Bill
    from userlm_synth.user_lm import ChatFormat

#: Tokens that a server's chat template may add for each message: role, opening and end.
MESSAGE_TOKENS = 16


class Metered:
    """A `Backend` for one side ("user", "assistant"); what is not here is the backend's own.

    Without a price, or with one of 0, tokens are counted and nothing is held back.
    """

    if TYPE_CHECKING:  # found by __getattr__, so that what `start` learns is seen
        name: str
        form: ChatFormat | None
        context: int | None
        first_token: FirstToken
        signals: Signals

    def __init__(self, backend: Backend, side: str, price: Price | None, bill: Bill) -> None:
        self.backend, self.side, self.bill = backend, side, bill
        self.price = price if price and (price.read or price.written) else None

    def __getattr__(self, name: str) -> Any:
        if name == "backend":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.backend, name)

    async def start(self) -> None:
        """As the backend does."""
        await self.backend.start()

    async def waiting(self) -> int | None:
        """As the backend does."""
        return await self.backend.waiting()

    async def close(self) -> None:
        """Close the backend; the bill stays open."""
        await self.backend.close()

    async def generate(self, request: Request) -> Result:
        """One utterance, paid; raises `BudgetUsedUp` where it would not fit.

        Where a request is given up, it may be billed all the same: it costs the most. A
        `UserError` says that the server took no request at all.
        """
        if self.price is None:
            result = await self.backend.generate(request)
            self._count(result)
            return result
        prompt = self._most_prompt(request)
        cost = most = self.price.usd(prompt, request.max_tokens)
        await self.bill.reserve(self.side, most)
        try:
            result = await self.backend.generate(request)
            self._count(result)
            cost = self._cost(result, prompt, most)
            return result
        except UserError:
            cost = 0.0
            raise
        finally:
            self.bill.settle(self.side, most, cost)

    def _count(self, result: Result) -> None:
        self.bill.count(
            self.side, result.prompt_tokens, result.completion_tokens, result.cached_tokens
        )

    def _most_prompt(self, request: Request) -> int:
        """The most prompt tokens that one call can be billed for."""
        if isinstance(self.backend, PromptedBackend):
            request = self.backend.asked(request)  # with the instructions that go along
        if request.prompt_ids is not None:
            prompt = len(request.prompt_ids)
        else:
            text = "".join(message["content"] for message in request.messages)
            prompt = most_tokens(text) + MESSAGE_TOKENS * len(request.messages)
        if request.banned_first and self.backend.first_token == "two_calls":
            return 2 * prompt + 1
        return prompt

    def _cost(self, result: Result, prompt: int, most: float) -> float:
        """What an answer cost; the most, where the server counted nothing."""
        assert self.price
        if result.prompt_tokens or result.completion_tokens:
            read = result.prompt_tokens or prompt
            return self.price.usd(read, result.completion_tokens, result.cached_tokens)
        return 0.0 if result.finish == "context_full" else most
