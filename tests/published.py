"""Random checkpoint directories with the layout and settings of published models, but not with their sizes."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from checkpoints import (
    bert_config,
    bert_tokenizer,
    modernbert_config,
    modernbert_tokenizer,
    modernbert_weights,
    write_encoder,
    write_json,
    write_pylate,
    write_stanford,
    write_weights,
)


def colbert_zero(directory: Path, seed: int = 0) -> Path:
    prompts = {"query": "search_query: ", "document": "search_document: "}
    settings = {"prompts": prompts, "query_length": 39, "document_length": 519}
    dense = {"in_features": 64, "out_features": 32, "use_residual": False}
    return write_pylate(directory, modernbert_config(), [dense], settings, seed)


def gte_moderncolbert(directory: Path, seed: int = 0) -> Path:
    """An older layout: its Dense has no `use_residual`; all tokens attend to the query expansion."""
    settings = {"query_length": 32, "document_length": 300, "attend_to_expansion_tokens": True}
    config = modernbert_config(local_attention=32, num_attention_heads=2)
    return write_pylate(directory, config, [{"in_features": 64, "out_features": 32}], settings, seed)


def lateon_code(directory: Path, seed: int = 0) -> Path:
    """Three projections in a row, the first with a bias, an activation and a residual layer."""
    settings = {"prompts": {"query": "", "document": ""}, "query_length": 256, "document_length": 2048}
    settings |= {"do_query_expansion": False, "skiplist_words": []}
    gelu = "torch.nn.modules.activation.GELU"
    first = {"in_features": 64, "out_features": 96, "bias": True, "activation_function": gelu, "use_residual": True}
    second = {"in_features": 96, "out_features": 96, "use_residual": True}
    third = {"in_features": 96, "out_features": 48, "use_residual": False}
    return write_pylate(directory, modernbert_config(num_hidden_layers=3), [first, second, third], settings, seed)


def answerai_colbert_small(directory: Path, seed: int = 0) -> Path:
    return write_stanford(directory, bert_config(), 24, {"doc_maxlen": 300, "checkpoint": "MiniLM"}, seed)


def colbertv2(directory: Path, seed: int = 0) -> Path:
    return write_stanford(directory, bert_config(num_attention_heads=2, hidden_size=48), 32, {}, seed)


PUBLISHED: dict[str, Callable[[Path], Path]] = {
    "colbert-zero": colbert_zero,
    "gte-moderncolbert": gte_moderncolbert,
    "lateon-code": lateon_code,
    "answerai-colbert-small": answerai_colbert_small,
    "colbertv2": colbertv2,
}


def bare_modernbert(directory: Path, seed: int = 0) -> Path:
    return write_encoder(directory, modernbert_config(), modernbert_tokenizer(), seed)


def bare_bert(directory: Path, seed: int = 0) -> Path:
    return write_encoder(directory, bert_config(), bert_tokenizer(), seed)


def masked_lm(directory: Path, seed: int = 0) -> Path:
    """`ModernBertForMaskedLM`, as the base models on the hub: tensor names begin with `model.`, and there is a head."""
    config = modernbert_config(architectures=["ModernBertForMaskedLM"])
    write_encoder(directory, config, modernbert_tokenizer(), seed)
    hidden = config["hidden_size"]
    head = {"head.dense.weight": torch.eye(hidden), "head.norm.weight": torch.ones(hidden)}
    head["decoder.bias"] = torch.zeros(config["vocab_size"])
    weights = {f"model.{name}": tensor for name, tensor in modernbert_weights(config, seed).items()}
    write_weights(directory / "model.safetensors", weights | head)
    return directory


def shard(directory: Path, shards: int = 3) -> Path:
    """Split the model.safetensors of a directory, and write the index that names the parts."""
    from safetensors.torch import load_file

    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        write_weights(directory / file, part)
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in weights.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    return directory


def pickle_weights(directory: Path) -> Path:
    """Replace the model.safetensors of a directory by the older pytorch_model.bin."""
    from safetensors.torch import load_file

    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    return directory


def edit_json(path: Path, **changes: object) -> None:
    """Change keys of a JSON file in place; a value of `...` removes the key."""
    value = json.loads(path.read_text("utf-8")) | changes
    write_json(path, {key: item for key, item in value.items() if item is not ...})
