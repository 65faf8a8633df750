"""BERT (Devlin et al. 2018, arXiv 1810.04805) on packed tokens: the encoder of ColBERTv2 and answerai-colbert-small.

Learned absolute positions, post-norm. Configuration keys and tensor names are those of Hugging Face's BertModel; the
pooler is not needed and its weights are ignored.

Legend: N tokens of the batch, H hidden size, h heads, d head dimension; in the ONNX graph B texts, L tokens of the
longest.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from colbertz.errors import UserError
from colbertz.kernels import cpu
from colbertz.models.encoders.attention import attention
from colbertz.models.encoders.layers import (
    ACTIVATIONS,
    SITES_OF_A_LAYER,
    Dropout,
    Linear,
    check_activation,
    check_fields,
    heads_of,
    pick_fields,
    refuse,
)
from colbertz.models.encoders.packing import Packing, dropout_seeds
from colbertz.models.onnx.attention import Blocks, pad, unpad
from colbertz.models.onnx.attention import attention as graph_attention
from colbertz.models.onnx.graph import Graph
from colbertz.ragged import Ragged

# Keys that change what transformers 4 or 5 computes, and the values that leave it as it is here. `pruned_heads` and
# `position_embedding_type` are of transformers 4, `per_layer_config` is of 5.
_SUPPORTED = {
    "position_embedding_type": "absolute",
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "per_layer_config": {},
}


@dataclass(frozen=True)
class BertConfig:
    """The keys of a BERT `config.json` that the encoder needs; the defaults are bert-base-uncased.

    Attributes:
        extra: the other keys, which are kept for writing.
    """

    model_type: ClassVar[str] = "bert"
    architecture: ClassVar[str] = "BertModel"

    vocab_size: int = 30522
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        check_activation("hidden_act", self.hidden_act)
        if self.extra.get("is_decoder"):
            raise UserError("is_decoder is true, but a retrieval encoder must see both sides; use another checkpoint")
        refuse(self.extra, _SUPPORTED)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "BertConfig":
        """Read a Hugging Face `config.json`. Keys that the encoder does not use are kept in `extra` for writing."""
        known = pick_fields(cls, config)
        return cls(**known, extra={k: v for k, v in config.items() if k not in known})

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of this encoder."""
        sizes = {key: value for key, value in asdict(self).items() if key != "extra"}
        return {**self.extra, **sizes, "model_type": self.model_type, "architectures": [self.architecture]}


class Embeddings(nn.Module):
    """Token, position and token-type embeddings, normalised. Every token is of type 0."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob, site=0)

    def forward(self, packing: Packing) -> Tensor:
        x = self.word_embeddings(packing.ids.values) + self.position_embeddings(packing.positions)
        return self.dropout(self.LayerNorm(x + self.token_type_embeddings.weight[0]), packing)


class SelfAttention(nn.Module):
    """Attention within each text, before the output projection."""

    def __init__(self, config: BertConfig, site: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.site = site
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        q, k, v = (layer(x) for layer in (self.query, self.key, self.value))
        if packing.parts:
            return cpu.encoder.attention(q, k, v, packing.parts)
        q, k, v = (part.view(len(x), self.heads, x.shape[1] // self.heads) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        return attention(q, k, v, packing, dropout=dropout, site=self.site).flatten(1)


class ResidualOutput(nn.Module):
    """Project, drop, add the residual, normalise: how both halves of a BERT layer end."""

    def __init__(self, config: BertConfig, in_features: int, site: int) -> None:
        super().__init__()
        self.dense = Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob, site)

    def forward(self, x: Tensor, residual: Tensor, packing: Packing) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x), packing) + residual)


class Layer(nn.Module):
    """Attention and a feed-forward network, each followed by its residual and a norm."""

    def __init__(self, config: BertConfig, index: int) -> None:
        super().__init__()
        site = (index + 1) * SITES_OF_A_LAYER
        self.activation = ACTIVATIONS[config.hidden_act]
        # nn.ModuleDict only to give the tensors Hugging Face's names: attention.self.query.weight and so on.
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(config, site), "output": ResidualOutput(config, config.hidden_size, site + 1)}
        )
        self.intermediate = nn.ModuleDict({"dense": Linear(config.hidden_size, config.intermediate_size)})
        self.output = ResidualOutput(config, config.intermediate_size, site + 2)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, packing), x, packing)
        return self.output(self.activation(self.intermediate["dense"](x)), x, packing)


class Bert(nn.Module):
    """The encoder: token ids to last hidden states.

    Attributes:
        config: its sizes.
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))}
        )

    def reset_parameters(self) -> None:
        """Draw fresh weights as Hugging Face's BertModel does: normal with `initializer_range`, biases of zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    @property
    def token_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    @property
    def layers(self) -> nn.ModuleList:
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def max_positions(self) -> int:
        """Tokens of the longest text that is read as a whole; longer ones are read in windows of at most so many."""
        return self.config.max_position_embeddings

    def forward(self, ids: Ragged, attended: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            ids: B texts of token ids, N in all. One longer than `max_positions` is read in windows: as several texts
                of nearly equal lengths, of which only the first has [CLS] and the prefix.
            attended: (N,) bool, false for tokens that no token attends to (unattended query expansion); None for all.
            seeds: (B,) int64 seeds of each text's dropout on the CPU; None to draw them.

        Returns:
            (N, H) last hidden states, row for row those of `ids.values`.
        """
        seeds = dropout_seeds(ids, seeds) if self.training else None
        ids, seeds = _in_windows(ids, seeds, self.max_positions)
        heads = None if self.training else heads_of(self.config)
        packing = Packing.of(ids, attended, self.token_embeddings.weight, seeds, heads)
        x = self.embeddings(packing)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, packing, use_reentrant=False)
            else:
                x = layer(x, packing)
        return x[packing.restore]


def _in_windows(ids: Ragged, seeds: Tensor | None, longest: int) -> tuple[Ragged, Tensor | None]:
    """The same tokens, each text of more than `longest` cut into the fewest windows, of nearly equal lengths.

    Args:
        ids: B texts of token ids.
        seeds: (B,) of the texts, or None.
        longest: tokens of a window at most.

    Returns:
        The texts and windows, and the seed of each.
    """
    lengths = ids.lengths
    if not len(ids) or int(lengths.max()) <= longest:
        return ids, seeds
    num_windows = (lengths + longest - 1) // longest
    text = torch.arange(len(ids), device=ids.device).repeat_interleave(num_windows)
    within = torch.arange(len(text), device=ids.device) - (num_windows.cumsum(0) - num_windows)[text]
    starts = ids.offsets[text] + within * lengths[text] // num_windows[text]
    windows = Ragged(ids.values, torch.cat([starts, ids.offsets[-1:]]))
    return windows, None if seeds is None else seeds[text]


def build_graph(graph: Graph, encoder: Bert) -> str:
    """Add the encoder to an ONNX graph; returns the name of the hidden states (B, L, H)."""
    embeddings = encoder.embeddings
    # All tokens are of type 0, so its embedding can be added to those of the positions once.
    positions = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    blocks = Blocks.of(graph)
    table, ends = graph.weight(positions), (graph.integers(0), graph.op("Unsqueeze", blocks.length, graph.integers(0)))
    rows = graph.op("Slice", table, *ends)
    x = graph.op("Add", graph.embedding("input_ids", embeddings.word_embeddings.weight), rows)
    x = pad(graph, blocks, graph.norm(x, embeddings.LayerNorm))
    layer: Any
    for layer in encoder.layers:
        attention, out = layer.attention["self"], layer.attention["output"]
        products = (attention.query, attention.key, attention.value)
        q, k, v = (graph.linear(x, part.weight, part.bias) for part in products)
        y = graph.linear(graph_attention(graph, blocks, q, k, v), out.dense.weight, out.dense.bias)
        x = graph.norm(graph.op("Add", y, x), out.LayerNorm)
        y = graph.linear(x, layer.intermediate["dense"].weight, layer.intermediate["dense"].bias)
        y = graph.activation(encoder.config.hidden_act, y)
        y = graph.linear(y, layer.output.dense.weight, layer.output.dense.bias)
        x = graph.norm(graph.op("Add", y, x), layer.output.LayerNorm)
    return unpad(graph, blocks, x)
