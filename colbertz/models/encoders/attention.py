"""Self-attention over packed texts: every token attends to the tokens of its own text and to nothing else.

On CUDA in half precision this is one call of PyTorch's variable-length FlashAttention; everywhere else it goes over
runs of texts of equal length (runs.py). `Packing.of` chooses the layout.

Legend: N tokens of the batch, h heads, d head dimension.
"""

import torch
from torch import Tensor

from colbertz.errors import UserError
from colbertz.models.encoders.packing import Packing
from colbertz.models.encoders.runs import attention_over_runs


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packing: Packing,
    half_window: int | None = None,
    dropout: float = 0.0,
    site: int = 0,
) -> Tensor:
    """Bidirectional softmax attention within each text.

    Args:
        q, k, v: (N, h, d), queries, keys and values; rotary positions are applied already.
        packing: the layout of the N tokens.
        half_window: a token sees the tokens at most this far to either side; None for all of its text.
        dropout: probability with which attention weights are dropped.
        site: which dropout of the encoder this is; see `layers.Dropout`.

    Returns:
        (N, h, d). A token that has nothing to attend to gets zeros.

    Raises:
        UserError: if there is dropout and attention would be FlashAttention, which has none.
    """
    if half_window is not None and packing.max_length <= half_window + 1:
        half_window = None
    if packing.runs or not len(q):
        over_runs = attention_over_runs
        if torch.compiler.is_compiling():
            from colbertz.models.encoders.untraced import attention_over_runs as over_runs
        return over_runs(q, k, v, packing, half_window, dropout, site)
    return _flash_attention(q, k, v, packing, half_window, dropout)


def _flash_attention(
    q: Tensor, k: Tensor, v: Tensor, packing: Packing, half_window: int | None, dropout: float
) -> Tensor:
    if dropout:
        raise UserError(
            f"attention_dropout is {dropout}, but PyTorch's variable-length attention on CUDA has no dropout; "
            "set attention_dropout to 0 in the model's config.json or train in float32"
        )
    # Imported here because it takes two seconds and only CUDA needs it.
    from torch.nn.attention.varlen import varlen_attn

    offsets, max_length = packing.ids.offsets.to(torch.int32), packing.max_length
    window = (-1, -1) if half_window is None else (half_window, half_window)
    y = varlen_attn(q, k, v, offsets, offsets, max_length, max_length, window_size=window)
    assert isinstance(y, Tensor)  # a tuple only with auxiliary outputs, which are not requested
    return y
