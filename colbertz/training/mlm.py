"""Masked language modelling (Devlin et al. 2018, section 3.1), to warm up an encoder before it learns retrieval.

As for ModernBERT (arXiv 2412.13663, section 2.2.2) 30 % of the tokens are predicted. Of these, 80 % are replaced by
`[MASK]`, 10 % by a random token, and 10 % stay. The head is ModernBERT's: a linear layer, GELU, a norm, and the token
embeddings as the output layer. It is not saved with the model.

Legend: N tokens of the batch, M tokens to predict, H hidden size, V tokens of the vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.models.encoders.base import Encoder
from colbertz.models.tokenizer import ColBERTTokenizer
from colbertz.ragged import Ragged

# Shares of the tokens to predict that are replaced by [MASK], and by a random token; the others stay.
_SHARE_MASKED = 0.8
_SHARE_RANDOM = 0.1


@dataclass(frozen=True)
class Masked:
    """A batch in which tokens are to be predicted.

    Attributes:
        ids: the texts, with tokens replaced.
        positions: (M,) int64, the tokens to predict, as indices into `ids.values`.
        targets: (M,) int64, their original ids.
    """

    ids: Ragged
    positions: Tensor
    targets: Tensor


def mask(ids: Ragged, tokenizer: ColBERTTokenizer, share: float) -> Masked:
    """Choose the tokens to predict and replace most of them.

    Draws from PyTorch's global random number generator, as dropout does.

    Args:
        ids: texts of token ids.
        tokenizer: the tokenizer that made the ids; its special tokens are never predicted and never drawn at random.
        share: share of the tokens to predict, on average.

    Raises:
        UserError: if the tokenizer has no mask token.
    """
    values, backend = ids.values, tokenizer.backend
    mask_id = backend.token_to_id(tokenizer.special_tokens.get("mask_token", ""))
    if mask_id is None:
        raise UserError("loss.kind mlm needs a tokenizer with a mask token, and this one has none")
    special = torch.tensor([backend.token_to_id(token) for token in tokenizer.special_tokens.values()])
    special = special.to(values.device)
    ordinary = ~torch.isin(values, special)
    positions = ((torch.rand(len(values), device=values.device) < share) & ordinary).nonzero()[:, 0]
    targets = values[positions]
    draw = torch.rand(len(positions), device=values.device)
    random_ids = torch.randint(tokenizer.vocab_size, (len(positions),), device=values.device)
    random_ids = torch.where(torch.isin(random_ids, special), mask_id, random_ids)
    kept_or_random = torch.where(draw < _SHARE_MASKED + _SHARE_RANDOM, random_ids, targets)
    replacements = torch.where(draw < _SHARE_MASKED, mask_id, kept_or_random)
    return Masked(ids.with_values(values.index_put((positions,), replacements)), positions, targets)


class MaskedLanguageHead(nn.Module):
    """From hidden states to the loss of the tokens to predict."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    @classmethod
    def of(cls, encoder: Encoder) -> "MaskedLanguageHead":
        """The head for an encoder, with PyTorch's default random weights."""
        vocab_size, hidden_size = encoder.token_embeddings.weight.shape
        return cls(hidden_size, vocab_size)

    def forward(self, hidden: Tensor, embeddings: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy, and the share of tokens that are predicted right, two scalars.

        Args:
            hidden: (M, H) last hidden states of the tokens to predict.
            embeddings: (V, H) the token embeddings.
            targets: (M,) int64, the ids to predict.
        """
        logits = self.norm(F.gelu(self.dense(hidden))) @ embeddings.T + self.bias
        right = (logits.detach().argmax(1) == targets).float()
        return F.cross_entropy(logits.float(), targets), right.mean()
