"""What an encoder is to the rest of the package, and which families of encoders there are.

A family is one file in this folder (its configuration, its module, and how it is written as an ONNX graph) and one line
in `FAMILIES`, under the `model_type` of its `config.json`. Loading, saving, training from scratch and ONNX export look
families up there; a family that is not there is refused everywhere by `family_of`.

Legend: N tokens of the batch, H hidden size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.models.encoders import bert, modernbert
from colbertz.models.onnx.graph import Graph
from colbertz.ragged import Ragged


class EncoderConfig(Protocol):
    """The sizes of an encoder: a frozen dataclass with the keys of a Hugging Face `config.json`.

    Attributes:
        model_type: the name of the family.
        architecture: the class that `architectures` in `config.json` names.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    model_type: ClassVar[str]
    architecture: ClassVar[str]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix."""

    @property
    def hidden_size(self) -> int:
        """H."""

    @property
    def num_hidden_layers(self) -> int:
        """Layers."""

    @property
    def num_attention_heads(self) -> int:
        """Heads of each attention layer; they divide `hidden_size`."""

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Self:
        """Read the content of a `config.json`. Raises UserError for what the encoder does not support."""

    def to_dict(self) -> dict[str, Any]:
        """The content of the `config.json` to write."""


class Encoder(Protocol):
    """An `nn.Module` from token ids to hidden states, with the tensor names of Hugging Face's module.

    Attributes:
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping its activations.
    """

    gradient_checkpointing: bool

    @property
    def config(self) -> EncoderConfig:
        """Its sizes."""

    @property
    def token_embeddings(self) -> nn.Embedding:
        """The embedding matrix, to which rows are added for new tokens."""

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, which FSDP shards one by one."""

    @property
    def max_positions(self) -> int | None:
        """Tokens of the longest text that is read as a whole; longer ones are read in windows. None: no limit."""

    def reset_parameters(self) -> None:
        """Draw fresh weights from PyTorch's global random generator."""

    def __call__(self, ids: Ragged, attended: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            ids: texts of token ids, N in all.
            attended: (N,) bool, false for tokens that no token attends to (unattended query expansion); None for all.
            seeds: (B,) int64 seeds of each text's dropout on the CPU; None to draw them where there is dropout.

        Returns:
            (N, H) last hidden states, row for row those of `ids.values`.
        """

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`nn.Module.compile`."""

    def eval(self) -> Self:
        """`nn.Module.eval`."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """`nn.Module.parameters`."""


@dataclass(frozen=True)
class Family:
    """What makes an encoder family.

    Attributes:
        config: the class of its configuration.
        module: makes the encoder from a configuration, with uninitialised or arbitrary weights.
        build_graph: adds the encoder to an ONNX graph, whose inputs are `input_ids` and `attention_mask`, and returns
            the name of the hidden states (B, L, H); None if the family cannot be exported.
    """

    config: type[EncoderConfig]
    module: Callable[[Any], Encoder]
    build_graph: Callable[[Graph, Any], str] | None = None


FAMILIES: dict[str, Family] = {
    "modernbert": Family(modernbert.ModernBertConfig, modernbert.ModernBert, modernbert.build_graph),
    "bert": Family(bert.BertConfig, bert.Bert, bert.build_graph),
}


def family_of(model_type: object) -> Family:
    """The family of that name.

    Raises:
        UserError: if there is none, with the names of those that there are.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(f"model_type {model_type!r} is not supported, only {' and '.join(FAMILIES)}")
    return FAMILIES[model_type]
