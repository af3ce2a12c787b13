"""LoRA adapters on top of a user LM: one for each group of people, or for each person.

The base is loaded once and stays as it is; each adapter starts from fresh weights and is trained
as the user LM was, on its own people's conversations. Adapters are on the linear layers of the
decoder alone, never on embeddings or the head, so that vLLM serves them beside their base.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.recipe import Group, groups_of, lasting, members
from userlm_synth.records import Record, parse_json, stable_hash
from userlm_synth.training.loop import Job, decoder_layers, fit
from userlm_synth.training.ranks import join
from userlm_synth.training.train import clear, last_figures, make_windows, shared
from userlm_synth.training.validation import Validation
from userlm_synth.user_lm import ChatFormat, fingerprint, load_model, load_tokenizer
from userlm_synth.user_lm.adapters import ABOUT, CONFIG, save_adapter

if TYPE_CHECKING:
    from userlm_synth.recipe import Personas

NAMED = 5  # of those left out, in their line


def train_adapters(
    user_lm: str,
    conversations: Sequence[Record],
    settings: Personas,
    out: Path,
    *,
    seed: int,
    validation: Sequence[Record] = (),
) -> dict[str, Record]:
    """Train the adapters `out`/NAME of a user LM; returns what each was made from and came to.

    One that is there already, of the same base, people and settings, is kept.
    """
    ranks = join()
    form = ChatFormat.probe(load_tokenizer(user_lm))
    if form.end_id is None:
        ranks.fail(f"{user_lm}: is not a user LM, for adapters to stand on; train it first")
    groups = groups_of(settings, conversations)
    own = members(groups, conversations)
    groups = ranks.share(_large_enough(groups, own, settings.min_conversations))
    if not groups:
        ranks.fail(
            f"personas.min_conversations: nobody has {settings.min_conversations} conversations "
            "in the train split; lower it, or look at the filters"
        )
    if ranks.first:
        _remove_others(out, groups)
    trainer = _Adapters(user_lm, form, settings, out, seed)
    held_out = members(groups, validation)
    found: dict[str, Record] = {}
    for number, group in enumerate(groups):
        stage = f"adapter {group.name} ({number + 1} of {len(groups)})"
        made = ranks.share(trainer.about(group, own.get(group.name, [])))
        if (finished := ranks.share(_finished(out / group.name, made["key"]))) is not None:
            say(f"  {stage}: up to date")
            found[group.name] = finished
            continue
        found[group.name] = trainer.train(
            group, own.get(group.name, []), held_out[group.name], made, stage
        )
    return found


def _large_enough(
    groups: Sequence[Group], own: Mapping[str, Sequence[Record]], wanted: int
) -> list[Group]:
    """The groups with conversations enough; the others are named in one line."""
    few = sorted((g for g in groups if len(own[g.name]) < wanted), key=lambda g: -len(own[g.name]))
    if few:
        some = ", ".join(f"{group.name} ({len(own[group.name])})" for group in few[:NAMED])
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        say(f"  no adapter for those with fewer than {wanted} conversations: {some}{more}")
    return [group for group in groups if len(own[group.name]) >= wanted]


def _remove_others(out: Path, groups: Sequence[Group]) -> None:
    """Adapters of groups that there are no more."""
    names = {group.name for group in groups}
    for config in out.glob(f"*/{CONFIG}"):
        if config.parent.name not in names:
            shutil.rmtree(config.parent)


def _finished(folder: Path, key: str) -> Record | None:
    """What a finished adapter says of itself, if it was made from just this."""
    try:
        about: Record = parse_json((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return None
    return about if about.get("key") == key else None


class _Adapters:
    """The base, loaded when the first adapter needs it, and the training of one after another."""

    def __init__(
        self, user_lm: str, form: ChatFormat, settings: Personas, out: Path, seed: int
    ) -> None:
        self.user_lm, self.form, self.settings = user_lm, form, settings
        self.out, self.seed = out, seed
        self.start = fingerprint(user_lm)
        self.base: Any = None

    def about(self, group: Group, own: Sequence[Record]) -> Record:
        """What an adapter is made from, and the key of all of it."""
        part = asdict(self.settings)
        made = {
            "made_from": self.start,
            "persona": group.name,
            "filters": {path: list(values) for path, values in group.filters.items()},
            "conversations": len(own),
            **{name: part[name] for name in ("rank", "alpha", "dropout", "train")},
            "seed": self.seed,
        }
        return {**made, "key": stable_hash(lasting(made), own)}

    def train(
        self, group: Group, own: Sequence[Record], held_out: Sequence[Record], made: Record,
        stage: str,
    ) -> Record:  # fmt: skip
        """Train and save one adapter."""
        ranks, options = join(), self.settings.train
        states = self.out.parent / f".{self.out.name}.{group.name}.training"
        windows = shared(states, lambda: make_windows(self.form, own, options, self.seed), ranks)
        names = [one["id"] for one in own]
        wrapped = self._with_fresh_weights(group)
        model = wrapped.get_base_model()
        job = Job(windows, names, self.form.tokenizer.pad_token_id, self.seed, made["key"])
        validate = Validation(self.form, held_out, options, self.seed, ranks) if held_out else None
        log = fit(model, job, options, stage=stage, states=states, validate=validate)
        made = {**made, "targets": windows.targets, **last_figures(log)}
        weights = _weights(wrapped, model)
        if ranks.first:
            config = wrapped.peft_config["default"]
            save_adapter(config, weights, self.user_lm, self.out / group.name, made, log)
        ranks.wait()
        clear(states)
        # Sharded layers cannot be given back, so several processes load the base anew.
        self.base = wrapped.unload() if ranks.world == 1 else None
        return made

    def _with_fresh_weights(self, group: Group) -> Any:
        """The base with new LoRA layers (in place), as a `PeftModel` around it."""
        import torch
        from peft import LoraConfig, get_peft_model

        self.base = self.base or load_model(self.user_lm)
        config = LoraConfig(
            r=self.settings.rank, lora_alpha=self.settings.alpha, bias="none",
            lora_dropout=self.settings.dropout, target_modules=linear_layers(self.base),
            task_type="CAUSAL_LM",
        )  # fmt: skip
        torch.manual_seed(int(stable_hash(self.seed, "adapter", group.name)[:12], 16))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return get_peft_model(self.base, config)


def linear_layers(model: Any) -> list[str]:
    """The names, each the last part of a path, of the linear layers in a model's decoder."""
    import torch

    found = {
        name.rpartition(".")[2]
        for layer in decoder_layers(model)
        for name, part in layer.named_modules()
        if isinstance(part, torch.nn.Linear)
    }
    if not found:
        raise UserError(f"{model.config.model_type}: has no linear layers for adapters to be on")
    return sorted(found)


def _weights(wrapped: Any, model: Any) -> Record:
    """The adapter's weights by PEFT's names, gathered from all processes, on the CPU."""
    from peft import get_peft_model_state_dict
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    own = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state = get_model_state_dict(model, options=own)
    prefixed = {f"base_model.model.{name}": one for name, one in state.items()}
    found: Record = get_peft_model_state_dict(
        wrapped, state_dict=prefixed, save_embedding_layers=False
    )
    return found
