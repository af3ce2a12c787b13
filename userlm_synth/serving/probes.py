"""The doctor's ten probes, by name, in the order in which they are asked and shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from userlm_synth.serving.findings import Finding
from userlm_synth.serving.patients import Patient
from userlm_synth.serving.sampler_probes import concurrency, logit_bias, logprobs, price, seeds
from userlm_synth.serving.text_probes import context, special_tokens
from userlm_synth.serving.turn_probes import end_token, stop_ids, template

Probe = Callable[[Patient], Awaitable[Finding]]
PROBES: dict[str, Probe] = {
    "template": template,
    "end token": end_token,
    "stop ids": stop_ids,
    "context": context,
    "special tokens": special_tokens,
    "logit bias": logit_bias,
    "seeds": seeds,
    "logprobs": logprobs,
    "concurrency": concurrency,
    "price": price,
}
