"""Attention over packed sequences: each token sees its own sequence only, and no mask is built.

A micro-batch is one flat row of sequences. Where the packed kernels are (half precision on a GPU;
torch's own from 2.10 on, or the flash-attn package), one call does all of them; elsewhere each
sequence is one causal call, so the cost is the sum of the squared lengths, not the square of the
sum. Sliding windows and soft caps of a layer are honoured.
"""

from __future__ import annotations

from typing import Any

NAME = "userlm_packed"
KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def use_packed_attention(model: Any) -> bool:
    """Let `model` attend within packed sequences; False where its sequences have to go one by one,
    because it has layers that are no attention (recurrent ones and the like would read across), or
    attention sinks, which only its own attention knows."""
    import transformers

    layers = set(getattr(model.config, "layer_types", None) or KNOWN_LAYERS)
    sinks = any(name.endswith(".sinks") for name, _ in model.named_parameters())
    if sinks or not layers <= KNOWN_LAYERS:
        return False
    transformers.AttentionInterface.register(NAME, packed_attention)
    model.set_attn_implementation(NAME)
    return True


def packed_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: Any = None,
    segments: tuple[int, ...] = (),
    **_: Any,
) -> tuple[Any, None]:
    """Queries `[1, heads, N, width]` (keys, values: as many heads or fewer) -> `[1, N, heads,
    width]`.

    `segments`: the sequences' lengths, with sum N; `cu_seq_lens_q`: the same as int32 offsets.
    Without segments it is one sequence with a cache: a whole prompt, or its next token.
    """
    import torch

    if torch.is_autocast_enabled(query.device.type):  # positions made queries and keys fp32 again
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = (x.to(half) for x in (query, key, value))
    if not segments:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling
        )
    longest = max(segments)
    if sliding_window is not None and sliding_window >= longest:
        sliding_window = None
    kernel = _varlen_kernel(query, sliding_window, softcap, dropout)
    if kernel is not None:
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, heads, width]
        out = kernel(q, k, v, cu_seq_lens_q, longest, scaling, sliding_window, softcap)
        return out[None], None
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    parts = [
        _one_sequence(q, k, v, scaling, dropout, sliding_window, softcap)
        for q, k, v in zip(*(x.split(segments, 2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def _one_sequence(
    q: Any, k: Any, v: Any, scale: float | None, dropout: float, window: int | None,
    softcap: float | None,
) -> Any:  # fmt: skip
    """Causal attention of one sequence, `[1, heads, L, width]`."""
    import torch

    length = q.shape[2]
    window = window if window is not None and window < length else None
    if softcap is None and window is None:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scale
        )
    back = torch.arange(length, device=q.device)
    distance = back[:, None] - back[None, :]
    seen = (distance >= 0) & (distance < (window or length))
    if softcap is None:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=dropout, scale=scale
        )
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=torch.float32)
    return torch.nn.functional.dropout(scores.to(q.dtype), dropout) @ v


def _varlen_kernel(query: Any, window: int | None, softcap: float | None, dropout: float) -> Any:
    """The kernel for many sequences in one call, or None where there is none for this case."""
    import torch

    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16):
        return None
    takes = _torch_varlen_takes()
    if takes and softcap is None and not dropout and (window is None or "window_size" in takes):
        return _by_torch
    try:
        import flash_attn
    except ImportError:
        return None

    def by_flash_attn(
        q: Any, k: Any, v: Any, offsets: Any, longest: int, scale: float | None,
        window: int | None, cap: float | None,
    ) -> Any:  # fmt: skip
        return flash_attn.flash_attn_varlen_func(
            q, k, v, offsets, offsets, longest, longest, dropout_p=dropout, softmax_scale=scale,
            causal=True, window_size=(-1 if window is None else window - 1, 0), softcap=cap or 0.0,
        )  # fmt: skip

    return by_flash_attn


def _torch_varlen_takes() -> set[str]:
    """The arguments of torch's own kernel (2.10 and later; they changed since), if it is there."""
    import inspect

    try:
        from torch.nn.attention import varlen
    except ImportError:
        return set()
    return set(inspect.signature(varlen.varlen_attn).parameters)


def _by_torch(
    q: Any, k: Any, v: Any, offsets: Any, longest: int, scale: float | None, window: int | None,
    cap: float | None,
) -> Any:  # fmt: skip
    from torch.nn.attention import varlen

    takes, more = _torch_varlen_takes(), {}  # type: set[str], dict[str, Any]
    if "scale" in takes:
        more["scale"] = scale
    elif scale is not None:
        q = q * (scale * q.shape[-1] ** 0.5)
    if "enable_gqa" in takes:
        more["enable_gqa"] = q.shape[1] != k.shape[1]
    else:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    if "window_size" in takes:
        more["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        more["is_causal"] = True
    return varlen.varlen_attn(q, k, v, offsets, offsets, longest, longest, **more)
