"""ModernBERT (Warner et al. 2024, arXiv 2412.13663) on packed tokens.

Alternating global and sliding-window attention, rotary positions with a theta for each kind, gated GELU, pre-norm with
no norm before the first attention. Configuration keys and tensor names are those of Hugging Face's ModernBertModel.

Legend: N tokens of the batch, H hidden size, h heads, d head dimension; in the ONNX graph B texts, L tokens of the
longest.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from colbertz.errors import UserError, check_type
from colbertz.kernels import cpu
from colbertz.kernels.cpu.attention import GATE_STEP
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
from colbertz.models.encoders.packing import Packing, compute_dtype, dropout_seeds
from colbertz.models.encoders.rotary import rotary_table, rotate
from colbertz.models.onnx.attention import Blocks, pad, unpad
from colbertz.models.onnx.attention import attention as graph_attention
from colbertz.models.onnx.graph import Graph
from colbertz.ragged import Ragged

# The kinds of layers in `layer_types`, and the key of the theta of each in transformers 4.
_THETAS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
# What `rope_parameters` may say about a kind of layer beside its theta.
_ROPE = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1.0}
# Beyond these, powers of a theta are no numbers in float32.
_SMALLEST_THETA = 1e-6
_LARGEST_THETA = 1e30


@dataclass(frozen=True)
class ModernBertConfig:
    """The keys of a ModernBERT `config.json` that the encoder needs; the defaults are ModernBERT-base.

    `layer_types` and `rope_parameters` (transformers 5) and `global_attn_every_n_layers`, `global_rope_theta` and
    `local_rope_theta` (transformers 4) are two spellings of the same; both are read, the second is kept.

    Attributes:
        extra: the other keys, which are kept for writing.
    """

    model_type: ClassVar[str] = "modernbert"
    architecture: ClassVar[str] = "ModernBertModel"

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    max_position_embeddings: int = 8192
    hidden_activation: str = "gelu"
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    initializer_range: float = 0.02
    layer_types: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_size // self.num_attention_heads % 2:
            raise UserError(
                f"rotary positions need an even head dimension, got {self.hidden_size} / {self.num_attention_heads}"
            )
        check_activation("hidden_activation", self.hidden_activation)
        head_dim = self.hidden_size // self.num_attention_heads
        refuse(self.extra, {"head_dim": head_dim, "per_layer_config": {}, "pruned_heads": {}})
        for key in ("global_rope_theta", "local_rope_theta"):
            if not _SMALLEST_THETA <= getattr(self, key) <= _LARGEST_THETA:
                raise UserError(
                    f"{key} must be from {_SMALLEST_THETA:g} to {_LARGEST_THETA:g}, found {getattr(self, key)!r:.40}"
                )
        check_type("layer_types", self.layer_types, (tuple, list), "a list of names")
        every = self.global_attn_every_n_layers
        kinds = self.layer_types or tuple(
            "sliding_attention" if i % every else "full_attention" for i in range(self.num_hidden_layers)
        )
        if len(kinds) != self.num_hidden_layers or any(kind not in _THETAS for kind in kinds):
            raise UserError(
                f"layer_types must name sliding_attention or full_attention for each of {self.num_hidden_layers} layers"
            )
        object.__setattr__(self, "layer_types", tuple(kinds))

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "ModernBertConfig":
        """Read a Hugging Face `config.json`. Keys that the encoder does not use are kept in `extra` for writing."""
        config = {**config, **_thetas(config)}
        config.pop("rope_parameters", None)
        if "sliding_window" in config:
            # Half of the window, in transformers 5; it counts more than `local_attention`.
            half = config.pop("sliding_window")
            if not isinstance(half, int) or isinstance(half, bool) or half < 1:
                raise UserError(f"sliding_window must be an integer of at least 1, found {half!r}")
            config["local_attention"] = 2 * half
        kinds = config.pop("layer_types", None)
        if kinds is not None:
            if not isinstance(kinds, list | tuple) or not kinds or not all(isinstance(kind, str) for kind in kinds):
                raise UserError(f"layer_types must be a list with a name for each layer, found {kinds!r}")
            config["layer_types"] = tuple(kinds)
        known = pick_fields(cls, config)
        return cls(**known, extra={k: v for k, v in config.items() if k not in known})

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of this encoder, readable by transformers 4 and 5."""
        sizes = {key: value for key, value in asdict(self).items() if key != "extra"}
        sizes["layer_types"] = list(self.layer_types)
        sizes["rope_parameters"] = {
            "full_attention": {"rope_type": "default", "rope_theta": self.global_rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": self.local_rope_theta},
        }
        return {**self.extra, **sizes, "model_type": self.model_type, "architectures": [self.architecture]}


def _thetas(config: dict[str, Any]) -> dict[str, Any]:
    """`global_rope_theta` and `local_rope_theta`, which `rope_parameters` may give instead.

    Raises:
        UserError: if the rotary positions are of a kind that is not supported.
    """
    if config.get("rope_scaling"):
        raise UserError(f"rope_scaling is {config['rope_scaling']!r}, only unscaled rotary positions are supported")
    rope = config.get("rope_parameters")
    rope = {} if rope is None else rope
    if not isinstance(rope, dict) or not all(kind in _THETAS and isinstance(rope[kind], dict) for kind in rope):
        raise UserError(f"rope_parameters must have an object for each of {' and '.join(_THETAS)}, found {rope!r:.200}")
    thetas = {key: config[key] for key in _THETAS.values() if key in config}
    for kind, parameters in rope.items():
        for key, value in parameters.items():
            if key == "rope_theta":
                thetas[_THETAS[kind]] = value
            elif key not in _ROPE or value != _ROPE[key]:
                raise UserError(
                    f"rope_parameters.{kind}.{key} is {value!r:.80}, only a rope_theta and the rope_type 'default' are "
                    "supported"
                )
    if "local_rope_theta" in thetas and thetas["local_rope_theta"] is None:
        # transformers 4 takes null for "as in global layers".
        thetas["local_rope_theta"] = thetas.get("global_rope_theta", ModernBertConfig.global_rope_theta)
    return thetas


def _norm(config: ModernBertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    """Token embeddings, normalised."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = _norm(config)
        self.drop = Dropout(config.embedding_dropout, site=0)

    def forward(self, packing: Packing) -> Tensor:
        return self.drop(self.norm(self.tok_embeddings(packing.ids.values)), packing)


class Attention(nn.Module):
    """Attention over a whole text or a sliding window, with rotary positions."""

    def __init__(self, config: ModernBertConfig, kind: str, site: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.half_window = config.local_attention // 2 if kind == "sliding_attention" else None
        self.dropout = config.attention_dropout
        self.Wqkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.Wo = Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.site = site
        self.out_drop = Dropout(config.attention_dropout, site + 1)

    def forward(self, x: Tensor, packing: Packing, rotary: tuple[Tensor, Tensor]) -> Tensor:
        qkv = self.Wqkv(x)
        if packing.parts:
            q, k, v = qkv.chunk(3, dim=1)
            return self.Wo(cpu.encoder.attention(q, k, v, packing.parts, rotary, self.half_window))
        qkv = qkv.view(len(x), 3 * self.heads, x.shape[1] // self.heads)
        qk, v = qkv.split([2 * self.heads, self.heads], dim=1)
        q, k = rotate(qk, *rotary).chunk(2, dim=1)
        dropout = self.dropout if self.training else 0.0
        y = attention(q, k, v, packing, self.half_window, dropout, self.site)
        return self.out_drop(self.Wo(y.flatten(1)), packing)


class MLP(nn.Module):
    """The gated feed-forward network (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: ModernBertConfig, site: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.hidden_activation]
        self.Wi = Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.Wo = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.drop = Dropout(config.mlp_dropout, site)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        x = self.Wi(x)
        if packing.parts and self.activation is F.gelu and x.shape[1] % GATE_STEP == 0:
            return self.Wo(cpu.encoder.gated_gelu(x))
        value, gate = x.chunk(2, dim=-1)
        return self.Wo(self.drop(self.activation(value) * gate, packing))


class Layer(nn.Module):
    """Attention and a feed-forward network, each with a norm before and a residual; layer 0 has no first norm."""

    def __init__(self, config: ModernBertConfig, index: int) -> None:
        super().__init__()
        self.attn_norm = _norm(config) if index else nn.Identity()
        site = (index + 1) * SITES_OF_A_LAYER
        self.attn = Attention(config, config.layer_types[index], site)
        self.mlp_norm = _norm(config)
        self.mlp = MLP(config, site + 2)

    def forward(self, x: Tensor, packing: Packing, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.attn_norm(x), packing, rotary)
        return x + self.mlp(self.mlp_norm(x), packing)


class ModernBert(nn.Module):
    """The encoder: token ids to last hidden states.

    Attributes:
        config: its sizes.
        gradient_checkpointing: recompute each layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = _norm(config)

    def reset_parameters(self) -> None:
        """Draw fresh weights: normal with `initializer_range`, smaller by depth where they end a branch."""
        std, depth = self.config.initializer_range, self.config.num_hidden_layers
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=std / (2 * depth) ** 0.5 if name.endswith("Wo.weight") else std)

    @property
    def token_embeddings(self) -> nn.Embedding:
        return self.embeddings.tok_embeddings

    @property
    def max_positions(self) -> None:
        """None: rotary positions have no limit."""
        return None

    def forward(self, ids: Ragged, attended: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """Encode a batch.

        Args:
            ids: B texts of token ids, N in all.
            attended: (N,) bool, false for tokens that no token attends to (unattended query expansion); None for all.
            seeds: (B,) int64 seeds of each text's dropout on the CPU; None to draw them.

        Returns:
            (N, H) last hidden states, row for row those of `ids.values`.
        """
        config = self.config
        seeds = dropout_seeds(ids, seeds) if self.training else None
        heads = None if self.training else heads_of(config)
        packing = Packing.of(ids, attended, self.token_embeddings.weight, seeds, heads)
        x = self.embeddings(packing)
        thetas = {"full_attention": config.global_rope_theta, "sliding_attention": config.local_rope_theta}
        rotary = {kind: self._rotary(packing, theta) for kind, theta in thetas.items()}
        for layer, kind in zip(self.layers, config.layer_types):
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, packing, rotary[kind], use_reentrant=False)
            else:
                x = layer(x, packing, rotary[kind])
        return self.final_norm(x)[packing.restore]

    def _rotary(self, packing: Packing, theta: float) -> tuple[Tensor, Tensor]:
        """Cosines and sines (N, 1, d / 2) of every token's position, in the dtype of the activations.

        For kernels/cpu/encoder.py (positions, d / 2) float32.
        """
        dim = self.config.hidden_size // self.config.num_attention_heads
        cos, sin = rotary_table(packing.max_length, dim, theta, packing.ids.device)
        if packing.parts:
            return cos, sin
        dtype = compute_dtype(self.token_embeddings.weight)
        return cos.to(dtype)[packing.positions][:, None], sin.to(dtype)[packing.positions][:, None]


def build_graph(graph: Graph, encoder: ModernBert) -> str:
    """Add the encoder to an ONNX graph; returns the name of the hidden states (B, L, H)."""
    config = encoder.config
    blocks = Blocks.of(graph)
    column = graph.op("Unsqueeze", blocks.position, graph.integers(1))
    angles = {
        "full_attention": graph.rotary_angles(column, config.global_rope_theta),
        "sliding_attention": graph.rotary_angles(column, config.local_rope_theta),
    }
    x = graph.norm(graph.embedding("input_ids", encoder.token_embeddings.weight), encoder.embeddings.norm)
    x = pad(graph, blocks, x)
    layer: Any
    for layer, kind in zip(encoder.layers, config.layer_types):
        y = x if isinstance(layer.attn_norm, nn.Identity) else graph.norm(x, layer.attn_norm)
        # Three products, because splitting the result of one would go over memory once more.
        q, k, v = (graph.linear(y, *part) for part in _chunks(layer.attn.Wqkv, 3))
        q, k = (graph.rotate(part, blocks.positions, angles[kind]) for part in (q, k))
        half_window = config.local_attention // 2 if kind == "sliding_attention" else None
        y = graph_attention(graph, blocks, q, k, v, half_window)
        x = graph.op("Add", x, graph.linear(y, layer.attn.Wo.weight, layer.attn.Wo.bias))
        y = graph.norm(x, layer.mlp_norm)
        value, gate = (graph.linear(y, *part) for part in _chunks(layer.mlp.Wi, 2))
        y = graph.op("Mul", graph.activation(config.hidden_activation, value), gate)
        x = graph.op("Add", x, graph.linear(y, layer.mlp.Wo.weight, layer.mlp.Wo.bias))
    return graph.norm(unpad(graph, blocks, x), encoder.final_norm)


def _chunks(layer: nn.Linear, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The weight and bias of a product, cut into `count` products with a part of its results each."""
    biases = [None] * count if layer.bias is None else layer.bias.chunk(count)
    return zip(layer.weight.chunk(count), biases)
