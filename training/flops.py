"""What a training step costs and what a GPU can do: model FLOPs utilisation (MFU).

MFU = the model's own arithmetic / (seconds x peak), after "PaLM" (arXiv 2204.02311, appendix B);
what is computed twice to save memory counts once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Dense bf16 peaks in TFLOPS (fp32 accumulation, no sparsity; a datasheet's figure "with sparsity"
#: is halved), by a pattern in the name that the driver gives. The first that is found counts.
#: NVIDIA: the datasheets of A100, A30, A10, A40, L4, L40, L40S, H100 (SXM, PCIe, NVL), H200 (SXM,
#: NVL), GH200, HGX B200 and B300, GB200 and GB300 NVL72, RTX A6000; RTX: the
#: architecture white papers GA102 (2.1), Ada (1.1), Ada professional, RTX Blackwell (appendix A).
#: AMD: the data sheets of Instinct MI250X (half: one die is one device), MI300X, MI325X.
PEAKS: tuple[tuple[str, float], ...] = (
    (r"A100\b|A800\b", 312),
    (r"A30\b", 165),
    (r"A10\b", 125),
    (r"A40\b", 149.7),
    (r"RTX A6000\b", 154.8),
    (r"L4\b", 121),
    (r"L40\b", 181.05),
    (r"L40S\b", 362.05),
    (r"RTX 6000 Ada\b", 364.2),
    (r"H100 PCIe\b", 756.5),
    (r"(H100|H200) NVL\b", 835.5),
    (r"(H100|H200|GH200)\b", 989.4),
    (r"H20\b", 148),
    (r"(B200|B300)\b", 2250),
    (r"(GB200|GB300)\b", 2500),
    (r"RTX 3090\b(?! Ti)", 71),
    (r"RTX 4090\b(?! D)", 165.2),
    (r"RTX 5090\b(?! D)", 209.5),
    (r"RTX PRO 6000 Blackwell Workstation\b", 503.8),
    (r"MI250X\b", 191.5),
    (r"(MI300X|MI325X)\b", 1307.4),
)
#: Parts of a GPU, and slower ones of the same name.
NOT_WHOLE = re.compile(r"\bMIG\b|\bGRID\b|Laptop|Max-Q|Mobile", re.IGNORECASE)


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOPs a second of one GPU by its name; None where it is not known."""
    if NOT_WHOLE.search(device_name):
        return None
    for pattern, tera in PEAKS:
        if re.search(rf"\b(?:{pattern})", device_name, re.IGNORECASE):
            return tera * 1e12
    return None


@dataclass(frozen=True)
class Sizes:
    """What the cost of a decoder depends on.

    `parameters`: in the matrices of its layers, without embeddings and head; `attention`: heads x
    head size, summed over the layers.
    """

    parameters: int
    attention: int
    hidden: int
    vocabulary: int


def sizes_of(model: Any) -> Sizes | None:
    """The sizes of a causal LM (before it is sharded); None for a mixture of experts, of whose
    parameters a token meets a part only."""
    import torch

    config = model.config.get_text_config()
    experts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    if any(getattr(config, name, None) for name in experts):
        return None
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    head = model.get_output_embeddings().weight
    outside = {id(table) for table in (*tables, head)}
    inside = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in outside]
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Sizes(
        parameters=sum(p.numel() for p in inside),
        attention=config.num_hidden_layers * heads * size,
        hidden=head.shape[1],
        vocabulary=head.shape[0],
    )


def step_flops(sizes: Sizes, lengths: NDArray[np.integer[Any]], targets: int) -> float:
    """FLOPs of one step, forward and backward, on sequences of `lengths` [S] tokens.

    A matrix's parameter costs a token 2 FLOPs forward (multiply, add) and twice that backward (for
    the input and for the weight): 6 x parameters x tokens (Kaplan et al., arXiv 2001.08361, 2.1).
    In a layer's attention a query meets length / 2 keys on average, as it is causal, each for 2
    FLOPs x heads x head size in the scores and as many in the weighted sum; forward 2 x length^2 x
    heads x head size a sequence, with the backward pass 6. (PaLM's 12 counts the other half too.)
    The head is counted where it was computed, at the targets: 6 x hidden x vocabulary x targets.

    Every weight is taken as trained and every layer as seeing the whole sequence: frozen weights
    (LoRA needs no gradients of them: about 4 instead of 6) and sliding windows cost less.
    """
    tokens = float(lengths.sum())
    pairs = float((lengths.astype(float) ** 2).sum())
    head = sizes.hidden * sizes.vocabulary * targets
    return 6 * (sizes.parameters * tokens + sizes.attention * pairs + head)
