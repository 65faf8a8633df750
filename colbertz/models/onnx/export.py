"""Writing a ColBERT as ONNX files, in next-plaid's layout.

`model.onnx`, `model_int8.onnx`, `tokenizer.json` and `onnx_config.json` are what next-plaid's server reads. Our own
settings say more than its configuration can. They stand in `onnx_config.json` beside its keys, under `colbertz`, so the
four files alone are a model here too (runtime.py). onnx is imported when it is needed (`pip install "colbertz[onnx]"`).

Legend: B texts, L tokens of the longest, E embedding dim.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from colbertz.errors import UserError, require
from colbertz.files import replaced_directory
from colbertz.models.checkpoint.layouts import FILES
from colbertz.models.encoders.base import FAMILIES, Encoder, family_of
from colbertz.models.encoders.int8 import check_has_weights
from colbertz.models.onnx.graph import FLOAT, INT64, MICROSOFT, OPSET, Graph, gelu, plain, silu
from colbertz.models.onnx.runtime import CONFIG, MODELS, SETTINGS_KEY
from colbertz.models.projection import Projection
from colbertz.models.tokenizer import ColBERTTokenizer

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

# The version of ONNX's file format.
_IR_VERSION = 8
_INPUTS = ("input_ids", "attention_mask")
# Protocol buffers end at 2 GB; the graph itself takes less than one megabyte of it.
_MAX_WEIGHT_BYTES = 2**31 - 2**20
# Norms below this are taken for it, so that a zero vector is not divided by zero.
_MIN_NORM = 1e-12


def export(
    encoder: Encoder,
    projections: Sequence[Projection],
    tokenizer: ColBERTTokenizer,
    directory: str | Path,
    *,
    int8: bool = False,
    name: str | None = None,
) -> list[Path]:
    """Write the ONNX files of a model's parts into `directory`, all or none of them; other files there stay.

    Args:
        encoder: of a family that can be exported.
        projections: from hidden states to embeddings.
        tokenizer: its file and its settings are written beside the graph.
        directory: a new one, or one that has other files, such as the model's own checkpoint.
        int8: also write `model_int8.onnx`. If there is one already it is always written anew, because it would
            otherwise belong to other weights.
        name: the model's name, for people.

    Returns:
        The files written.

    Raises:
        UserError: if onnx is not installed, the encoder is quantised, its family or an activation cannot be exported,
            or the weights take more than 2 GB.
    """
    check_has_weights(cast(nn.Module, encoder), "export")
    require("onnx", "onnx")
    directory = Path(directory)
    files = [MODELS["onnx"], FILES.tokenizer, CONFIG]
    if int8 or (directory / MODELS["onnx-int8"]).exists():
        files.insert(1, MODELS["onnx-int8"])
    with replaced_directory(directory) as out:
        for file in files[:-2]:
            graph = build(encoder, projections, int8=file == MODELS["onnx-int8"])
            (out / file).write_bytes(graph.SerializeToString())
        (out / FILES.tokenizer).write_text(tokenizer.backend.to_str(pretty=True), encoding="utf-8")
        content = json.dumps(_config(encoder, projections, tokenizer, name), indent=2, ensure_ascii=False)
        (out / CONFIG).write_text(content + "\n", encoding="utf-8")
    return [directory / file for file in files]


def build(encoder: Encoder, projections: Sequence[Projection], *, int8: bool = False) -> "ModelProto":
    """The graph of an encoder, projections and normalisation.

    Inputs are `input_ids` and `attention_mask`, (B, L) int64. No token attends to one whose mask is 0, but such a token
    has an embedding too: unattended query expansion needs it, for padding it means nothing. `output` is (B, L, E)
    float32.

    Args:
        encoder: of a family that can be exported.
        projections: at least one.
        int8: weights of 8 bits, activations quantised as they come.

    Raises:
        UserError: if the family or an activation cannot be exported, or the weights are too large for one file.
    """
    from onnx import helper

    config = encoder.config
    build_graph = family_of(config.model_type).build_graph
    if build_graph is None:
        known = " and ".join(name for name, family in FAMILIES.items() if family.build_graph)
        raise UserError(f"an encoder of model_type {config.model_type!r} cannot be exported to ONNX, only {known}")
    graph = Graph(int8, config.num_attention_heads, config.hidden_size)
    x = build_graph(graph, encoder)
    for projection in projections:
        x = _projection(graph, x, projection)
    norm = graph.op("Max", graph.op("ReduceL2", x, axes=[-1]), graph.scalar(_MIN_NORM))
    graph.nodes.append(helper.make_node("Div", [x, norm], ["output"]))
    size = sum(weight.ByteSize() for weight in graph.weights)
    if size > _MAX_WEIGHT_BYTES:
        raise UserError(f"the weights take {size / 1e9:.1f} GB and an ONNX file holds at most 2; use a smaller model")
    inputs = [helper.make_tensor_value_info(name, INT64, ["batch", "length"]) for name in _INPUTS]
    output = helper.make_tensor_value_info("output", FLOAT, ["batch", "length", projections[-1].out_features])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(
        helper.make_graph(graph.nodes, "colbert", inputs, [output], graph.weights),
        producer_name="colbertz",
        functions=graph.functions,
        opset_imports=opsets,
        ir_version=_IR_VERSION,
    )


def _config(
    encoder: Encoder, projections: Sequence[Projection], tokenizer: ColBERTTokenizer, name: str | None
) -> dict[str, Any]:
    """next-plaid's keys as its runner understands them, and ours."""
    settings, backend = tokenizer.settings.cut_to(encoder.max_positions), tokenizer.backend
    if settings != tokenizer.settings:
        lengths = f"query_length {settings.query_length}, document_length {settings.document_length}"
        logger.warning("%s: the graph reads no longer texts in windows, as the checkpoint does: %s", CONFIG, lengths)
    expansion = settings.do_query_expansion
    if expansion and not settings.attend_to_expansion_tokens:
        # next-plaid lets all tokens attend to the filler, which this model was not trained for. Its own exporter leaves
        # the expansion out too.
        logger.info("%s: do_query_expansion is false for next-plaid, which has no unattended query expansion", CONFIG)
        expansion = False
    pad_id = backend.token_to_id(tokenizer.special_tokens.get("pad_token", ""))
    theirs = {
        "model_type": "ColBERT",
        "model_name": name,
        "model_class": encoder.config.architecture,
        "uses_token_type_ids": False,
        "query_prefix": settings.query_prefix,
        "document_prefix": settings.document_prefix,
        "query_length": settings.query_length,
        "document_length": settings.document_length,
        "do_query_expansion": expansion,
        "attend_to_expansion_tokens": settings.attend_to_expansion_tokens,
        # The tokens themselves: next-plaid leaves out a word that is no token, for us it stands for [UNK].
        "skiplist_words": [backend.id_to_token(token_id) for token_id in tokenizer.skiplist.tolist()],
        "embedding_dim": projections[-1].out_features,
        "mask_token_id": tokenizer.expansion_id or 0,
        "pad_token_id": pad_id or 0,
        "query_prefix_id": backend.token_to_id(settings.query_prefix),
        "document_prefix_id": backend.token_to_id(settings.document_prefix),
        "do_lower_case": settings.do_lower_case,
    }
    ours = {
        "format": 1,
        "settings": asdict(settings),
        "special_tokens": tokenizer.special_tokens,
        "max_positions": encoder.max_positions,
    }
    return {**theirs, SETTINGS_KEY: ours}


def _projection(graph: Graph, x: str, layer: Projection) -> str:
    """One projection, always in float32: it takes next to no time, and its rounding errors are those of the embeddings.

    Raises:
        UserError: if its activation cannot be exported.
    """
    name = type(layer.activation).__name__
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"the projection's activation_function {name} cannot be exported, only {known}")
    y = _ACTIVATIONS[name](graph, graph.linear(x, layer.linear.weight, layer.linear.bias, exact=True))
    if not layer.use_residual:
        return y
    residual = layer.residual
    if isinstance(residual, nn.Linear):
        x = graph.linear(x, residual.weight, None, exact=True)
    return graph.op("Add", y, x)


# By the name of PyTorch's class. A checkpoint cannot give these arguments, so they have PyTorch's defaults.
_ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "Identity": lambda graph, x: x,
    "GELU": gelu,
    "SiLU": silu,
    "ReLU": plain("Relu"),
    "Tanh": plain("Tanh"),
    "Sigmoid": plain("Sigmoid"),
    "ELU": plain("Elu", alpha=1.0),
    "LeakyReLU": plain("LeakyRelu", alpha=0.01),
    "Softplus": plain("Softplus"),
    "Softsign": plain("Softsign"),
}
