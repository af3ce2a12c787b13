"""The two sides of a run: its user models, by slice, and its assistant, each with its bill."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.backends import Backend, open_backend
from userlm_synth.backends.metered import Metered
from userlm_synth.money import Bill, check_budgets, load_prices
from userlm_synth.recipe import lasting
from userlm_synth.records import Record, sha256_file
from userlm_synth.simulate.dialogue import Simulator, UserSide
from userlm_synth.simulate.plan import MAIN

if TYPE_CHECKING:
    from userlm_synth.money import Price
    from userlm_synth.recipe import Assistant, Generate


@dataclass(frozen=True)
class Job:
    """Which dialogues are to be held, as plain data: it also goes to other machines."""

    settings: Generate
    side: Assistant
    user: str
    assistant: str
    intents: Path
    out: Path
    seed: int
    recipe_hash: str
    ends_when: Record | None = None  # what else ends a dialogue than the sides' own settings

    @property
    def user_specs(self) -> dict[str, str]:
        """The SPEC of the user model of each slice; without slices there is one, `main`."""
        slices = self.settings.slices
        if not slices:
            return {MAIN: self.user}
        return {name: one.user or self.user for name, one in slices.items()}

    @property
    def budgets(self) -> dict[str, float | None]:
        """USD, in all and by side."""
        settings = self.settings
        return {
            "all": settings.budget,
            "user": settings.budget_user,
            "assistant": self.side.budget,
        }


@dataclass(frozen=True)
class Sides:
    """Open models: the user models by SPEC, and the assistant, with their prices."""

    job: Job
    users: dict[str, Backend]
    assistant: Backend
    prices: dict[str, Price | None]  # by SPEC

    @property
    def backends(self) -> list[Backend]:
        """All of them."""
        return [*self.users.values(), self.assistant]

    async def start(self) -> None:
        """Make all of them ready."""
        for backend in self.backends:
            await backend.start()

    async def close(self) -> None:
        """Release all of them."""
        for backend in self.backends:
            await backend.close()

    def simulator(self, bill: Bill) -> Simulator:
        """The two sides at one table; what they ask for goes on the bill."""
        job = self.job
        metered = {
            spec: Metered(backend, "user", self.prices[spec], bill)
            for spec, backend in self.users.items()
        }
        users = {}
        for name, spec in job.user_specs.items():
            users[name] = UserSide(metered[spec], **_sampling(job.settings, name))
        assistant = Metered(self.assistant, "assistant", self.prices[job.assistant], bill)
        return Simulator(users, assistant, job.settings, job.side, job.recipe_hash)

    def fixed_settings(self) -> Record:
        """What shapes a dialogue, as plain data: a folder holds dialogues of one such set."""
        job, side = self.job, lasting(asdict(self.job.side))
        general = lasting(asdict(job.settings))
        like = job.settings.turns_like
        return {
            **{key: value for key, value in general.items() if key not in LOOSE},
            "turns_like": sha256_file(Path(like)) if like else None,
            "slices": {
                name: {"model": self.users[spec].name, **_sampling(job.settings, name)}
                for name, spec in job.user_specs.items()
            },
            "assistant": {
                **{key: side[key] for key in ("temperature", "top_p", "max_tokens", "system")},
                "model": self.assistant.name,
            },
            "seed": job.seed,
            **({"ends_when": job.ends_when} if job.ends_when else {}),
        }


def open_sides(job: Job) -> Sides:
    """The models of a job; a SPEC that several slices name is opened once.

    Raises `UserError` for a SPEC that cannot be opened, and for a budget without a price.
    """
    settings, side = job.settings, job.side
    table = load_prices(Path(settings.prices) if settings.prices else None)
    specs = list(dict.fromkeys(job.user_specs.values()))
    prices = {spec: table.of(spec) for spec in [*specs, job.assistant]}
    check_budgets(job.budgets, prices, users=specs, assistant=job.assistant)
    batch = settings.concurrency
    users = {
        spec: open_backend(
            spec, speaker="user", batch=batch, key_env=settings.api_key_env, server=settings.server
        )
        for spec in specs
    }
    assistant = open_backend(
        job.assistant, speaker="assistant", batch=batch, key_env=side.api_key_env,
        server=side.server,
    )  # fmt: skip
    return Sides(job, users, assistant, prices)


def _sampling(settings: Generate, name: str) -> dict[str, float]:
    """Temperature and top_p of a slice's user model."""
    own = (settings.slices or {}).get(name)
    given = {key: getattr(own, key, None) for key in ("temperature", "top_p")}
    return {key: getattr(settings, key) if value is None else value for key, value in given.items()}


#: Of `generate`: which and how many dialogues there are and how they are made, not what they say
#: (sampling is named with each slice).
LOOSE = {"num", "intents", "user", "personas", "server", "slices", "temperature", "top_p"}
