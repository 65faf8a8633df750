"""A ColBERT as an ONNX graph: padded ids and their mask in, unit embeddings out.

The graph is written operator by operator rather than traced. Our forward pass runs on packed tokens, which a trace
would freeze to one layout, and a graph of our own can say where 8 bits are used: in the encoder's products with weights
and in the table of token embeddings, with a scale for each column or row. Norms, softmax, residuals and projections
stay in float32. Operators are ONNX's own (opset 17), so any runtime can load the file; onnxruntime fuses them.

Legend: B texts, L tokens of the longest, H hidden size, h heads, d head dimension, E embedding dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.models.encoders.bert import Bert
from colbertz.models.encoders.modernbert import ModernBert
from colbertz.models.projection import Projection

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto

    from colbertz.models.colbert import ColBERT

INPUTS = ("input_ids", "attention_mask")
_OPSET, _IR_VERSION, _FLOAT, _INT64 = 17, 8, 1, 7
_MICROSOFT = "com.microsoft"
# Far below every score and far from the end of float32: the sum of two, for padding and window, is still a number.
_NEVER = -1e9
_MOST_BYTES = 2**31 - 2**20


def build(model: "ColBERT", *, int8: bool = False) -> "ModelProto":
    """The graph of a model's encoder, projections and normalisation.

    Inputs are `input_ids` and `attention_mask`, (B, L) int64. No token attends to one whose mask is 0, but it has an
    embedding too, which unattended query expansion needs and padding does not. `output` is (B, L, E) float32.

    Args:
        model: ModernBERT or BERT with any projections.
        int8: weights of 8 bits, activations quantised as they come.

    Raises:
        ValueError: if an activation has no counterpart in ONNX, or the weights are too large for one file.
    """
    from onnx import helper

    encoder = model.encoder
    g = _Graph(int8, encoder.config.num_attention_heads, encoder.config.hidden_size)
    x = _modernbert(g, encoder) if isinstance(encoder, ModernBert) else _bert(g, encoder)
    for projection in model.projections:
        assert isinstance(projection, Projection)
        x = _projection(g, x, projection)
    norm = g.op("Max", g.op("ReduceL2", x, axes=[-1]), g.number(1e-12))
    g.nodes.append(helper.make_node("Div", [x, norm], ["output"]))
    size = sum(weight.ByteSize() for weight in g.weights)
    if size > _MOST_BYTES:
        raise UserError(f"the weights take {size / 1e9:.1f} GB and an ONNX file holds at most 2; use a smaller model")
    inputs = [helper.make_tensor_value_info(name, _INT64, ["batch", "length"]) for name in INPUTS]
    output = helper.make_tensor_value_info("output", _FLOAT, ["batch", "length", model.embedding_dim])
    graph = helper.make_graph(g.nodes, "colbert", inputs, [output], g.weights)
    functions = [_rotary_function(g)] if isinstance(encoder, ModernBert) else []
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(
        graph, producer_name="colbertz", functions=functions, opset_imports=opsets, ir_version=_IR_VERSION
    )


@dataclass
class _Graph:
    """Nodes and weights so far; what adds a node returns the name of its result."""

    int8: bool
    heads: int
    hidden_size: int
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    known: dict[Any, Any] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, num_outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        from onnx import helper

        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(num_outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def weight(self, values: "Tensor | np.ndarray[Any, Any]") -> str:
        from onnx import numpy_helper

        name = f"weight_{len(self.weights)}"
        array = _array(values) if isinstance(values, Tensor) else values
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def count(self, value: int) -> str:
        return self._constant(np.array(value, np.int64))

    def sizes(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _constant(self, array: "np.ndarray[Any, Any]") -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            # Not through ascontiguousarray, which makes a vector of a number.
            from onnx import numpy_helper

            self.known[key] = f"weight_{len(self.weights)}"
            self.weights.append(numpy_helper.from_array(array, self.known[key]))
        name: str = self.known[key]
        return name

    def linear(self, x: str, weight: Tensor, bias: Tensor | None, *, exact: bool = False) -> str:
        """`x @ weight.T + bias`; in 8 bits if the graph is, unless `exact`."""
        columns = _array(weight).T
        if self.int8 and not exact:
            values, scales = _to_int8(columns, axis=0)
            if x not in self.known:
                self.known[x] = self.ops("DynamicQuantizeLinear", 3, x)
            small, scale, zero = self.known[x]
            product = self.op("Cast", self.op("MatMulInteger", small, self.weight(values), zero), to=_FLOAT)
            y = self.op("Mul", product, self.op("Mul", scale, self.weight(scales)))
        else:
            y = self.op("MatMul", x, self.weight(columns))
        return y if bias is None else self.op("Add", y, self.weight(bias))

    def embedding(self, ids: str, table: Tensor) -> str:
        """The rows `ids` of `table` (V, H)."""
        if not self.int8:
            return self.op("Gather", self.weight(table), ids)
        values, scales = _to_int8(_array(table), axis=1)
        rows = self.op("Cast", self.op("Gather", self.weight(values), ids), to=_FLOAT)
        return self.op("Mul", rows, self.op("Gather", self.weight(scales), ids))

    def norm(self, x: str, layer: nn.Module) -> str:
        assert isinstance(layer, nn.LayerNorm)
        parts = [self.weight(part) for part in (layer.weight, layer.bias) if part is not None]
        return self.op("LayerNormalization", x, *parts, axis=-1, epsilon=layer.eps)

    def attention(self, q: str, k: str, v: str, bias: str) -> str:
        """Softmax attention of (B, L, H) queries over keys and values, `bias` added to the scores (B, h, L, L)."""
        dim = self.hidden_size // self.heads
        q, k, v = (self.op("Reshape", x, self.sizes(0, 0, self.heads, dim)) for x in (q, k, v))
        q, v = (self.op("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, v))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 3, 1]))
        scores = self.op("Add", self.op("Mul", scores, self.number(dim**-0.5)), bias)
        y = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        return self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1, 3]), self.sizes(0, 0, self.hidden_size))


def _array(tensor: Tensor) -> "np.ndarray[Any, Any]":
    array: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return array


def _to_int8(matrix: "np.ndarray[Any, Any]", axis: int) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Symmetric 8-bit values, and the scales, one for each slice along `axis`, that make numbers of them again."""
    scales = np.abs(matrix).max(axis=axis, keepdims=True) / 127
    values = np.round(matrix / np.where(scales == 0, 1, scales)).astype(np.int8)
    return values, (scales[0] if axis == 0 else scales).astype(np.float32)


# -- encoders ----------------------------------------------------------------------------------------------------------


def _length(g: _Graph) -> str:
    return g.op("Gather", g.op("Shape", "input_ids"), g.count(1))


def _padding_bias(g: _Graph) -> str:
    """(B, 1, 1, L): 0 for keys that are attended to, else `_NEVER`."""
    absent = g.op("Sub", g.number(1), g.op("Cast", "attention_mask", to=_FLOAT))
    return g.op("Unsqueeze", g.op("Mul", absent, g.number(_NEVER)), g.sizes(1, 2))


def _bert(g: _Graph, encoder: Bert) -> str:
    embeddings = encoder.embeddings
    # All tokens are of type 0, whose embedding every position can carry.
    positions = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
    rows = g.op("Slice", g.weight(positions), g.sizes(0), g.op("Unsqueeze", _length(g), g.sizes(0)))
    x = g.op("Add", g.embedding("input_ids", embeddings.word_embeddings.weight), rows)
    x = g.norm(x, embeddings.LayerNorm)
    bias = _padding_bias(g)
    layer: Any
    for layer in encoder.layers:
        own, out = layer.attention["self"], layer.attention["output"]
        q, k, v = (g.linear(x, part.weight, part.bias) for part in (own.query, own.key, own.value))
        y = g.linear(g.attention(q, k, v, bias), out.dense.weight, out.dense.bias)
        x = g.norm(g.op("Add", y, x), out.LayerNorm)
        y = g.linear(x, layer.intermediate["dense"].weight, layer.intermediate["dense"].bias)
        y = _ENCODER_ACTIVATIONS[encoder.config.hidden_act](g, y)
        y = g.linear(y, layer.output.dense.weight, layer.output.dense.bias)
        x = g.norm(g.op("Add", y, x), layer.output.LayerNorm)
    return x


def _modernbert(g: _Graph, encoder: ModernBert) -> str:
    config = encoder.config
    position = g.op("Cast", g.op("Range", g.count(0), _length(g), g.count(1)), to=_FLOAT)
    column = g.op("Unsqueeze", position, g.sizes(1))  # (L, 1)
    padding = _padding_bias(g)
    distance = g.op("Abs", g.op("Sub", column, position))
    outside = g.op("Cast", g.op("Greater", distance, g.number(config.local_attention // 2)), to=_FLOAT)
    window = g.op("Add", padding, g.op("Mul", outside, g.number(_NEVER)))  # (B, 1, L, L)
    # A token with nobody in its window to attend to, among unattended expansion, gets zeros, as in attention.py.
    sees = g.op("Greater", g.op("ReduceMax", window, axes=[-1]), g.number(_NEVER / 2))
    sees = g.op("Squeeze", g.op("Cast", sees, to=_FLOAT), g.sizes(1))  # (B, L, 1)
    angles = {
        "full_attention": _rotary(g, column, config.global_rope_theta),
        "sliding_attention": _rotary(g, column, config.local_rope_theta),
    }
    activation = _ENCODER_ACTIVATIONS[config.hidden_activation]
    x = g.norm(g.embedding("input_ids", encoder.token_embeddings.weight), encoder.embeddings.norm)
    layer: Any
    for layer, kind in zip(encoder.layers, config.layer_types):
        y = x if isinstance(layer.attn_norm, nn.Identity) else g.norm(x, layer.attn_norm)
        # Products of their own: to split one product's result would be another walk through memory.
        q, k, v = (g.linear(y, *part) for part in _parts(layer.attn.Wqkv, 3))
        q, k = (
            g.op("RotaryEmbedding", z, g.sizes(0), *angles[kind], domain=_MICROSOFT, num_heads=g.heads) for z in (q, k)
        )
        if kind == "sliding_attention":
            y = g.op("Mul", g.attention(q, k, v, window), sees)
        else:
            y = g.attention(q, k, v, padding)
        x = g.op("Add", x, g.linear(y, layer.attn.Wo.weight, layer.attn.Wo.bias))
        y = g.norm(x, layer.mlp_norm)
        value, gate = (g.linear(y, *part) for part in _parts(layer.mlp.Wi, 2))
        y = g.op("Mul", activation(g, value), gate)
        x = g.op("Add", x, g.linear(y, layer.mlp.Wo.weight, layer.mlp.Wo.bias))
    return g.norm(x, encoder.final_norm)


def _parts(layer: nn.Linear, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    biases = [None] * count if layer.bias is None else layer.bias.chunk(count)
    return zip(layer.weight.chunk(count), biases)


def _rotary(g: _Graph, column: str, theta: float) -> tuple[str, str]:
    """Cosines and sines (L, d / 2); see `attention.rotary_table`."""
    dim = g.hidden_size // g.heads
    frequencies = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angles = g.op("Mul", column, g.weight(frequencies))
    return g.op("Cos", angles), g.op("Sin", angles)


def _rotary_function(g: _Graph) -> "FunctionProto":
    """Rotary positions under the name of onnxruntime's own operator, which is one walk through memory instead of six.

    onnxruntime prefers its operator, every other runtime takes this definition, in ONNX's own operators.
    """
    from onnx import helper

    shapes = {"heads": [0, 0, g.heads, g.hidden_size // g.heads], "whole": [0, 0, g.hidden_size], "axis": [1]}
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, _INT64, [len(values)], values))
        for name, values in shapes.items()
    ]
    last: dict[str, Any] = {"axis": -1}
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Reshape", "x heads", "split", {}),
        ("Split", "split", "a b", last),
        ("Unsqueeze", "cosines axis", "c", {}),
        ("Unsqueeze", "sines axis", "s", {}),
        ("Mul", "a c", "ac", {}),
        ("Mul", "b s", "bs", {}),
        ("Mul", "b c", "bc", {}),
        ("Mul", "a s", "as", {}),
        ("Sub", "ac bs", "first", {}),
        ("Add", "bc as", "second", {}),
        ("Concat", "first second", "rotated", last),
        ("Reshape", "rotated whole", "y", {}),
    ]
    nodes += [
        helper.make_node(kind, inputs.split(), outputs.split(), **attributes)
        for kind, inputs, outputs, attributes in steps
    ]
    inputs = ["x", "first_position", "cosines", "sines"]
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_function(_MICROSOFT, "RotaryEmbedding", inputs, ["y"], nodes, opsets, ["num_heads"])


# -- projections and activations ---------------------------------------------------------------------------------------


def _projection(g: _Graph, x: str, layer: Projection) -> str:
    # Never in 8 bits: next to nothing in work, and its rounding is that of the embeddings.
    name = type(layer.activation).__name__
    if name not in _PROJECTION_ACTIVATIONS:
        known = ", ".join(_PROJECTION_ACTIVATIONS)
        raise UserError(f"the projection's activation_function {name} cannot be exported, only {known}")
    y = _PROJECTION_ACTIVATIONS[name](g, g.linear(x, layer.linear.weight, layer.linear.bias, exact=True))
    if not layer.use_residual:
        return y
    residual = layer.residual
    return g.op("Add", y, g.linear(x, residual.weight, None, exact=True) if isinstance(residual, nn.Linear) else x)


def _gelu(g: _Graph, x: str) -> str:
    erf = g.op("Erf", g.op("Div", x, g.number(2**0.5)))
    return g.op("Mul", g.op("Mul", x, g.op("Add", erf, g.number(1))), g.number(0.5))


def _gelu_tanh(g: _Graph, x: str) -> str:
    cube = g.op("Mul", g.op("Mul", x, x), x)
    inner = g.op("Add", x, g.op("Mul", cube, g.number(0.044715)))
    tanh = g.op("Tanh", g.op("Mul", inner, g.number((2 / np.pi) ** 0.5)))
    return g.op("Mul", g.op("Mul", x, g.op("Add", tanh, g.number(1))), g.number(0.5))


def _silu(g: _Graph, x: str) -> str:
    return g.op("Mul", x, g.op("Sigmoid", x))


def _plain(kind: str, **attributes: float) -> Callable[[_Graph, str], str]:
    return lambda g, x: g.op(kind, x, **attributes)


_ENCODER_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": _plain("Relu"),
    "silu": _silu,
    "swish": _silu,
}
# By the class's name; a checkpoint can give these no arguments, so they have PyTorch's.
_PROJECTION_ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "Identity": lambda g, x: x,
    "GELU": _gelu,
    "SiLU": _silu,
    "ReLU": _plain("Relu"),
    "Tanh": _plain("Tanh"),
    "Sigmoid": _plain("Sigmoid"),
    "ELU": _plain("Elu", alpha=1.0),
    "LeakyReLU": _plain("LeakyRelu", alpha=0.01),
    "Softplus": _plain("Softplus"),
    "Softsign": _plain("Softsign"),
}
