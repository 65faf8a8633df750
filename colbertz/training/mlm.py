"""Masked language modelling (Devlin et al. 2018, section 3.1), the warm-up of an encoder before any retrieval.

As for ModernBERT (arXiv 2412.13663, section 2.2.2) 30 % of the tokens are predicted. Of these, 80 % are replaced by
`[MASK]`, 10 % by a random token, and 10 % stay. The head is ModernBERT's: a product, GELU, a norm, and the token
embeddings themselves as the last layer. It is used nowhere else and not saved with the model.

Legend: N tokens of the batch, M masked ones, H hidden size, V tokens of the vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.models.encoders.base import Encoder
from colbertz.models.tokenizer import ColBERTTokenizer
from colbertz.ragged import Ragged


@dataclass(frozen=True)
class Masked:
    """A batch to be restored.

    Attributes:
        ids: the texts, with holes.
        places: (M,) int64, the tokens to predict, as rows of `ids.values`.
        targets: (M,) int64, what they were.
    """

    ids: Ragged
    places: Tensor
    targets: Tensor


def mask(ids: Ragged, tokenizer: ColBERTTokenizer, share: float) -> Masked:
    """Choose the tokens to predict and hide most of them; draws from PyTorch's own generator, as dropout does.

    Args:
        ids: texts of token ids.
        tokenizer: that made them; its special tokens are neither predicted nor drawn in place of others.
        share: of the tokens to predict, on average.

    Raises:
        ValueError: if there is no mask token.
    """
    values, backend = ids.values, tokenizer.backend
    mask_id = backend.token_to_id(tokenizer.special_tokens.get("mask_token", ""))
    if mask_id is None:
        raise UserError("loss.kind mlm needs a tokenizer with a mask token, and this one has none")
    special = torch.tensor([backend.token_to_id(token) for token in tokenizer.special_tokens.values()])
    special = special.to(values.device)
    ordinary = ~torch.isin(values, special)
    places = ((torch.rand(len(values), device=values.device) < share) & ordinary).nonzero()[:, 0]
    targets = values[places]
    fate = torch.rand(len(places), device=values.device)
    drawn = torch.randint(tokenizer.vocab_size, (len(places),), device=values.device)
    drawn = torch.where(torch.isin(drawn, special), mask_id, drawn)
    shown = torch.where(fate < 0.8, mask_id, torch.where(fate < 0.9, drawn, targets))
    return Masked(ids.with_values(values.index_put((places,), shown)), places, targets)


class MaskedLanguageHead(nn.Module):
    """From hidden states to the loss of the tokens to predict."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    @classmethod
    def of(cls, encoder: Encoder) -> "MaskedLanguageHead":
        """The head for an encoder, with PyTorch's own random weights."""
        rows, hidden_size = encoder.token_embeddings.weight.shape
        return cls(hidden_size, rows)

    def forward(self, hidden: Tensor, embeddings: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy, and the share of tokens that are predicted right.

        Args:
            hidden: (M, H) last hidden states of the tokens to predict.
            embeddings: (V, H) the token embeddings.
            targets: (M,) int64.
        """
        logits = self.norm(F.gelu(self.dense(hidden))) @ embeddings.T + self.bias
        right = (logits.detach().argmax(1) == targets).float()
        return F.cross_entropy(logits.float(), targets), right.mean()
