"""An ONNX graph under construction: operators, weights in float32 or 8 bits, and the parts that encoders share.

The graph is written operator by operator rather than traced. Our forward pass runs on packed tokens, which a trace
would freeze to one layout, and a graph of our own can say where 8 bits are used: in the encoder's products with weights
and in the table of token embeddings, with a scale for each column or row. Norms, softmax, residuals and projections
stay in float32. Operators are ONNX's own (opset 17), so any runtime can load the file; onnxruntime fuses them.

Each encoder family writes its own layers with `Graph` (`build_graph` in its file) and with attention.py; export.py puts
the file together.

Legend: B texts, P positions, H hidden size, h heads, d head dimension, V tokens of the vocabulary.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from colbertz.errors import UserError

if TYPE_CHECKING:
    from onnx import FunctionProto

# The version of ONNX's operators.
OPSET = 17
# ONNX's codes of element types.
FLOAT = 1
INT64 = 7
BOOL = 9
# The domain of onnxruntime's own operators.
MICROSOFT = "com.microsoft"


@dataclass
class Graph:
    """Nodes and weights so far. A method that adds a node returns the name of its result.

    Attributes:
        int8: whether products with weights and the token embeddings are in 8 bits.
        heads: h.
        hidden_size: H.
        nodes: ONNX nodes, in the order of computation.
        weights: ONNX tensors.
        functions: definitions of operators that are not ONNX's own.
        known: names of constants, and of results that several layers use.
        counter: numbers the nodes.
    """

    int8: bool
    heads: int
    hidden_size: int
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)
    known: dict[Any, Any] = field(default_factory=dict)
    counter: Iterator[int] = field(default_factory=itertools.count)

    @property
    def head_dim(self) -> int:
        """The size of a head, d."""
        return self.hidden_size // self.heads

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one result."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, num_outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator with several results."""
        from onnx import helper

        number = next(self.counter)
        names = [f"{kind}_{number}_{i}" for i in range(num_outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def loop(self, count: str, step: "Callable[[Graph, str], str]", axes: int) -> str:
        """Repeat a part of the graph.

        Args:
            count: how often.
            step: adds the part to the graph that it is given, from the number of the repetition (from 0) and from what
                this graph has, and returns the name of its result: float32, of the same shape each time.
            axes: number of axes of a result.

        Returns:
            The results, stacked along a new first axis.
        """
        from onnx import helper

        part, number = replace(self, nodes=[]), next(self.counter)
        repetition, before, after = (f"{name}_{number}" for name in ("repetition", "before", "after"))
        result = step(part, repetition)
        part.nodes.append(helper.make_node("Identity", [before], [after]))
        info = helper.make_tensor_value_info
        inputs = [info(repetition, INT64, []), info(before, BOOL, [])]
        outputs = [info(after, BOOL, []), info(result, FLOAT, [None] * axes)]
        always = self._constant(np.array(True))
        return self.op("Loop", count, always, body=helper.make_graph(part.nodes, f"step_{number}", inputs, outputs))

    def weight(self, values: "Tensor | np.ndarray[Any, Any]") -> str:
        """Add a weight."""
        from onnx import numpy_helper

        name = f"weight_{len(self.weights)}"
        array = _array(values) if isinstance(values, Tensor) else values
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def scalar(self, value: float) -> str:
        """A float constant."""
        return self._constant(np.array(value, np.float32))

    def integer(self, value: int) -> str:
        """An integer constant."""
        return self._constant(np.array(value, np.int64))

    def integers(self, *values: int) -> str:
        """A vector of integers: a shape, axes or indices."""
        return self._constant(np.array(values, np.int64))

    def _constant(self, array: "np.ndarray[Any, Any]") -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.known:
            from onnx import numpy_helper

            # Not through `weight`, whose ascontiguousarray turns a scalar into a vector.
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
            quantised, scale, zero_point = self.known[x]
            product = self.op("MatMulInteger", quantised, self.weight(values), zero_point)
            product = self.op("Cast", product, to=FLOAT)
            y = self.op("Mul", product, self.op("Mul", scale, self.weight(scales)))
        else:
            y = self.op("MatMul", x, self.weight(columns))
        return y if bias is None else self.op("Add", y, self.weight(bias))

    def embedding(self, ids: str, table: Tensor) -> str:
        """The rows `ids` of `table` (V, H)."""
        if not self.int8:
            return self.op("Gather", self.weight(table), ids)
        values, scales = _to_int8(_array(table), axis=1)
        rows = self.op("Cast", self.op("Gather", self.weight(values), ids), to=FLOAT)
        return self.op("Mul", rows, self.op("Gather", self.weight(scales), ids))

    def norm(self, x: str, layer: nn.Module) -> str:
        """Layer normalisation."""
        assert isinstance(layer, nn.LayerNorm)
        parts = [self.weight(part) for part in (layer.weight, layer.bias) if part is not None]
        return self.op("LayerNormalization", x, *parts, axis=-1, epsilon=layer.eps)

    def activation(self, name: str, x: str) -> str:
        """An activation of `colbertz.models.encoders.layers.ACTIVATIONS`.

        Raises:
            UserError: if it has no counterpart here.
        """
        if name not in ENCODER_ACTIVATIONS:
            raise UserError(f"the activation {name!r} cannot be exported, only {', '.join(ENCODER_ACTIVATIONS)}")
        return ENCODER_ACTIVATIONS[name](self, x)

    def rotary_angles(self, column: str, theta: float) -> tuple[str, str]:
        """Cosines and sines (P, d / 2) of the positions `column` (P, 1); see `encoders.rotary.rotary_table`."""
        frequencies = 1.0 / theta ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)
        angles = self.op("Mul", column, self.weight(frequencies))
        return self.op("Cos", angles), self.op("Sin", angles)

    def rotate(self, x: str, positions: str, angles: tuple[str, str]) -> str:
        """Rotate (B, P, H) queries or keys by the angles of their positions (B, P)."""
        if not self.functions:
            self.functions.append(_rotary_function(self.heads, self.hidden_size))
        settings: dict[str, Any] = {"num_heads": self.heads, "interleaved": 0}
        return self.op("RotaryEmbedding", x, positions, *angles, domain=MICROSOFT, **settings)


def _array(tensor: Tensor) -> "np.ndarray[Any, Any]":
    array: np.ndarray[Any, Any] = tensor.detach().float().cpu().numpy()
    return array


def _to_int8(matrix: "np.ndarray[Any, Any]", axis: int) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Symmetric 8-bit values, and the scales (one for each slice along `axis`) by which they are multiplied again."""
    scales = np.abs(matrix).max(axis=axis, keepdims=True) / 127
    values = np.round(matrix / np.where(scales == 0, 1, scales)).astype(np.int8)
    return values, (scales[0] if axis == 0 else scales).astype(np.float32)


def _rotary_function(heads: int, hidden_size: int) -> "FunctionProto":
    """Rotary positions under the name of onnxruntime's own operator, which goes over memory once instead of six times.

    onnxruntime and OpenVINO use operators of their own; every other runtime takes this definition, which consists of
    ONNX's operators. OpenVINO asks for `interleaved`, and for the position of every token: it takes a first position,
    which onnxruntime would accept too, for that of all tokens.
    """
    from onnx import helper

    shapes = {"heads": [0, 0, heads, hidden_size // heads], "whole": [0, 0, hidden_size], "axis": [2]}
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, INT64, [len(values)], values))
        for name, values in shapes.items()
    ]
    last: dict[str, Any] = {"axis": -1}
    # (operator, names of its inputs, names of its results, attributes)
    steps: list[tuple[str, str, str, dict[str, Any]]] = [
        ("Reshape", "x heads", "split", {}),
        ("Split", "split", "a b", last),
        ("Gather", "cosines positions", "cos", {}),
        ("Gather", "sines positions", "sin", {}),
        ("Unsqueeze", "cos axis", "c", {}),
        ("Unsqueeze", "sin axis", "s", {}),
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
    inputs = ["x", "positions", "cosines", "sines"]
    opsets = [helper.make_opsetid("", OPSET)]
    attributes = ["num_heads", "interleaved"]
    return helper.make_function(MICROSOFT, "RotaryEmbedding", inputs, ["y"], nodes, opsets, attributes)


# -- activations -------------------------------------------------------------------------------------------------------


def gelu(graph: Graph, x: str) -> str:
    """GELU by the error function."""
    erf = graph.op("Erf", graph.op("Div", x, graph.scalar(2**0.5)))
    return graph.op("Mul", graph.op("Mul", x, graph.op("Add", erf, graph.scalar(1))), graph.scalar(0.5))


def gelu_tanh(graph: Graph, x: str) -> str:
    """GELU by the tanh approximation."""
    cube = graph.op("Mul", graph.op("Mul", x, x), x)
    inner = graph.op("Add", x, graph.op("Mul", cube, graph.scalar(0.044715)))
    tanh = graph.op("Tanh", graph.op("Mul", inner, graph.scalar((2 / np.pi) ** 0.5)))
    return graph.op("Mul", graph.op("Mul", x, graph.op("Add", tanh, graph.scalar(1))), graph.scalar(0.5))


def silu(graph: Graph, x: str) -> str:
    """SiLU, also called swish."""
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def plain(kind: str, **attributes: float) -> Callable[[Graph, str], str]:
    """An activation that is one of ONNX's operators."""
    return lambda graph, x: graph.op(kind, x, **attributes)


# By their names in an encoder's config.json; those of `colbertz.models.encoders.layers.ACTIVATIONS`.
ENCODER_ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": plain("Relu"),
    "silu": silu,
    "swish": silu,
}
