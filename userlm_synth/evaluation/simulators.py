"""The models whose turns are sampled: user simulators, and an assistant that knows nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.backends import open_backend, parse_spec
from userlm_synth.errors import UserError
from userlm_synth.money import Price, load_prices
from userlm_synth.recipe import lasting
from userlm_synth.records import Message, Role, stable_hash

if TYPE_CHECKING:
    from userlm_synth.backends import Backend
    from userlm_synth.recipe import Evaluate, Simulator

FORMAT = 1  # of a kept turn's key: raise it when turns are sampled otherwise


class NotAUser(UserError):
    """The model cannot take the user's turns: its sampled figures are not measured."""


@dataclass
class SampledModel:
    """A model that is asked for turns, with its sampling; `open_simulator` makes one."""

    label: str
    spec: str
    settings: Evaluate
    temperature: float
    top_p: float
    price: Price | None
    system: str | None = None  # what stands around {intent}
    speaker: str = "user"
    opened: Any = field(default=None, repr=False)

    def open(self) -> Backend:
        """The model's backend, opened where it is not open."""
        if self.opened is None:
            self.opened = open_backend(
                self.spec,
                speaker=self.speaker,
                batch=self.settings.concurrency,
                key_env=self.settings.api_key_env,
                server=self.settings.server,
            )
        return self.opened  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Connections and engines go; a model in process stays loaded, and has nothing open."""
        if self.opened is not None and parse_spec(_inner(self.spec)).kind != "hf":
            await self.opened.close()
            self.opened = None

    def system_text(self, text: str | None) -> str | None:
        """The system message in the words that this model was trained on."""
        return self.system.replace("{intent}", text) if self.system and text else text

    @property
    def key(self) -> str:
        """Changes with everything but the places that decides what is sampled."""
        server = self.settings.server if parse_spec(_inner(self.spec)).kind == "openai" else None
        return stable_hash(
            FORMAT, self.open().name, self.speaker, self.settings.max_tokens,
            lasting(asdict(server)) if server else None, _told(self.spec),
        )  # fmt: skip


def open_simulator(label: str, simulator: Simulator, settings: Evaluate) -> SampledModel:
    """A simulator of the table `label`, ready for `sample`.

    Raises `NotAUser` for a checkpoint whose chat template opens no user turn, and `UserError` for
    what a person has to mend.
    """
    if simulator.system is not None and "{intent}" not in simulator.system:
        raise UserError(
            f"evaluate.models.{label}.system: says nothing of the intent; write {{intent}} where "
            "it goes"
        )
    _check_template(simulator.model)
    given = {"temperature": simulator.temperature, "top_p": simulator.top_p}
    sampling = {key: getattr(settings, key) if x is None else x for key, x in given.items()}
    return _sampled(label, simulator.model, settings, system=simulator.system, **sampling)


def open_assistant(spec: str, settings: Evaluate) -> SampledModel:
    """A model in the assistant's place, which writes the replies of the probes."""
    sampling = {"temperature": settings.temperature, "top_p": 1.0}
    return _sampled("unsure replies", spec, settings, speaker="assistant", **sampling)


def _sampled(label: str, spec: str, settings: Evaluate, **more: Any) -> SampledModel:
    price = load_prices(Path(settings.prices) if settings.prices else None).of(spec)
    if settings.budget is not None and price is None:
        raise UserError(
            f"evaluate.budget: {spec} has no price; add "
            f"`{parse_spec(_inner(spec)).target}: {{read: ..., written: ...}}` (USD a million "
            "tokens) to a file and name it as evaluate.prices"
        )
    model = SampledModel(label, spec, settings, price=price, **more)
    model.open()  # a SPEC that cannot be opened shows before anything is asked
    return model


def _inner(spec: str) -> str:
    return spec.removeprefix("prompted:")


def _check_template(spec: str) -> None:
    """A base or assistant checkpoint is found out before its weights are loaded."""
    from userlm_synth.user_lm import ChatFormat, load_tokenizer
    from userlm_synth.user_lm.adapters import find_adapter

    parsed = parse_spec(_inner(spec))
    if parsed.kind not in ("hf", "vllm"):
        return
    adapter = find_adapter(parsed.target)
    tokenizer = load_tokenizer(adapter.base if adapter else parsed.target)
    try:
        ChatFormat.probe(tokenizer, "assistant" if _inner(spec) != spec else "user")
    except UserError as error:
        raise NotAUser(str(error)) from None


def _told(spec: str) -> str | None:
    """A hash of the instructions that a prompted model gets."""
    if _inner(spec) == spec:
        return None
    from userlm_synth.backends.prompted import told_to

    roles: tuple[Role, ...] = ("system", "user", "assistant")
    turns: list[Message] = [{"role": role, "content": "x"} for role in roles]
    return stable_hash([told_to(turns[:n], may_end=end) for n in (1, 3) for end in (False, True)])
