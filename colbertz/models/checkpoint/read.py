"""Reading a checkpoint directory: all input of the package's model files, and nothing but input.

First phase of loading; assemble.py is the second. Errors name file, field and remedy. No code in a checkpoint is ever
executed.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from colbertz.errors import UserError
from colbertz.models.checkpoint.int8 import dequantised
from colbertz.models.checkpoint.json_files import check_file, is_there, read_json, read_json_if_there
from colbertz.models.checkpoint.layouts import (
    FILES,
    CheckpointError,
    Source,
    locate_modules,
    pylate_settings,
    sentence_transformers_settings,
    stanford_settings,
)
from colbertz.models.checkpoint.tokenizer_files import read_tokenizer_files
from colbertz.models.tokenizer import LONGEST
from colbertz.untrusted import check_tensor_archive

# Weights are computed with in these types; quantised ones are in int8, uint8 or float8.
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Tensors that bitsandbytes, GPTQ, AWQ, compressed-tensors and FP8 checkpoints put beside quantised weights.
_QUANTISED = re.compile(
    r"\.(SCB|weight_format|(weight|input|output)_(scale|scale_inv|zero_point)|weight_packed|weight_shape|qweight|qzeros"
    r"|scales|g_idx|(nested_)?(absmax|quant_map))$|\.quant_state\."
)
# Numbers in the weights for each parameter of the model that a config.json describes: the head of a language model is
# as large as the embedding matrix. Beside it there may be small tensors, such as a pooler.
_MOST_FOR_A_PARAMETER = 3
_MOST_BESIDE = 2**22
# Bytes of a number of the widest type, float64.
_WIDEST = 8
# Features of a dense layer, and tensors and shards of a checkpoint.
_MOST_FEATURES = 2**20
_MOST_TENSORS = 100_000
_MOST_SHARDS = 1_000
# Tensors of adapters, which change the weights that they stand beside.
_ADAPTER = re.compile(r"\.(lora_[A-Za-z_]+|base_layer|ia3_l|modules_to_save)(\.|$)")


@dataclass(frozen=True)
class Dense:
    """A dense layer as it was read.

    Attributes:
        origin: its directory, for messages.
        config: its config.json.
        tensors: its weights by name.
    """

    origin: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Contents:
    """Everything that a checkpoint holds, in memory.

    Attributes:
        source: its layout, the encoder's config.json, and the settings.
        tensors: the encoder's weights by name, and what lies beside them.
        projections: the dense layers, in order.
        tokenizer: as the file has it.
        special_tokens: role ("mask_token", …) to token.
    """

    source: Source
    tensors: dict[str, Tensor]
    projections: list[Dense]
    tokenizer: Tokenizer
    special_tokens: dict[str, str]


def read_source(directory: Path) -> Source:
    """Recognise a checkpoint directory and read what it says, without its weights.

    Raises:
        CheckpointError: if it is none, uses modules that are not supported, or a file is missing or damaged.
    """
    if is_there(directory / FILES.modules):
        return _read_modules(directory)
    for name in (FILES.settings, "1_Dense"):
        if is_there(directory / name):
            raise CheckpointError(
                f"{directory} has {name} and no {FILES.modules}, which says what its parts are; the checkpoint is "
                "incomplete, copy or download it again"
            )
    if not is_there(directory / FILES.config):
        raise CheckpointError(
            f"{directory} is not a checkpoint: it has neither {FILES.modules} nor {FILES.config}; "
            "give the directory that save_pretrained wrote or that the hub shows"
        )
    _refuse_adapter(directory)
    config = read_json(directory / FILES.config)
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures[:1] == ["HF_ColBERT"]:
        path = directory / FILES.stanford
        return Source("stanford", directory, config, settings=stanford_settings(path, read_json_if_there(path)))
    return Source("encoder", directory, config)


def _read_modules(directory: Path) -> Source:
    """PyLate's and sentence-transformers' layout: a list of modules, each in a folder of its own."""
    saved = read_json_if_there(directory / FILES.settings)
    modules = locate_modules(directory, read_json(directory / FILES.modules, kind=list))
    _refuse_adapter(modules.encoder)
    mask = {} if modules.mask is None else read_json(modules.mask / FILES.config)
    transformer = read_json_if_there(modules.encoder / FILES.transformer)
    if saved.get("model_type") != "MultiVectorEncoder":
        settings = pylate_settings(directory / FILES.settings, saved, transformer)
        config = read_json(modules.encoder / FILES.config)
        return Source("pylate", modules.encoder, config, modules.projections, settings)
    tokenizer = read_json_if_there(directory / FILES.tokenizer_config)
    root_config = read_json(directory / FILES.config)
    limits = (tokenizer.get("model_max_length"), root_config.get("max_position_embeddings"))
    # transformers writes 1e30 for a tokenizer without a limit.
    longest = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit <= LONGEST]
    settings = sentence_transformers_settings(directory, saved, transformer, mask, longest)
    config = read_json(modules.encoder / FILES.config)
    return Source("sentence-transformers", modules.encoder, config, modules.projections, settings)


def _refuse_adapter(directory: Path) -> None:
    """Refuse an encoder that an adapter beside it changes."""
    if is_there(directory / FILES.adapter):
        raise CheckpointError(
            f"{directory / FILES.adapter}: adapters (LoRA) are not supported; merge it into the weights with peft's "
            "merge_and_unload, then save the model"
        )


def read_contents(source: Source, num_parameters: int) -> Contents:
    """Read the weights and the tokenizer of a checkpoint.

    Args:
        source: as `read_source` returned it.
        num_parameters: of the encoder that its config.json describes; files that hold much more are not read.

    Raises:
        CheckpointError: if a file is missing or damaged, or a weight is NaN or infinite.
    """
    tensors = read_tensors(source.encoder, num_parameters)
    projections = [_read_dense(path) for path in source.projections]
    tokenizer, special_tokens = read_tokenizer_files(source.encoder, source.config)
    return Contents(source, tensors, projections, tokenizer, special_tokens)


def _read_dense(directory: Path) -> Dense:
    path = directory / FILES.config
    config = read_json(path)
    for key in ("in_features", "out_features"):
        if type(config.get(key)) is not int or not 0 < config[key] <= _MOST_FEATURES:
            raise CheckpointError(
                f"{path}: {key} should be an integer from 1 to {_MOST_FEATURES:,}, found {config.get(key)!r:.80}"
            )
    return Dense(directory, config, read_tensors(directory, config["in_features"] * config["out_features"]))


# -- weights -----------------------------------------------------------------------------------------------------------


def read_tensors(directory: Path, num_parameters: int) -> dict[str, Tensor]:
    """All tensors of a directory: one safetensors file, its shards, or a `.bin` that holds nothing but tensors.

    Weights that `int8.store_as_int8` wrote come back as float32.

    Args:
        directory: of the module.
        num_parameters: that its config.json describes; nothing is read of files that hold much more.

    Raises:
        CheckpointError: if there are none, a file is damaged, or a weight is quantised, of an adapter, NaN or infinite.
    """
    names = (FILES.weights, FILES.weights_int8, FILES.weights_index, FILES.weights_pickled, FILES.weights_pickled_index)
    for name in names:
        path = directory / name
        if is_there(path):
            break
    else:
        raise CheckpointError(
            f"{directory} has no weights: neither {FILES.weights} nor {FILES.weights_pickled}, whole or in shards"
        )
    weight_map = _weight_map(path) if path.suffix == ".json" else {}
    files = sorted({directory / shard for shard in weight_map.values()}) or [path]
    for file in files:
        check_file(file)
    size = sum(file.stat().st_size for file in files)
    most = _WIDEST * (_MOST_FOR_A_PARAMETER * num_parameters + _MOST_BESIDE)
    if size > most:
        raise CheckpointError(
            f"{path}: the weights have {size:,} bytes, but {directory / FILES.config} describes a model of "
            f"{num_parameters:,} numbers; the files do not belong together"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_tensor_file(file)
    if path.name == FILES.weights_int8:
        tensors = dequantised(tensors, path)
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(f"{path} promises tensor {missing[0]}, which is in none of the shards")
    for key, tensor in tensors.items():
        _refuse_quantised(path, key, tensor)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: tensor {key} has NaN or infinite values; the training that wrote it diverged"
            )
    return tensors


def _refuse_quantised(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse weights that are not what a layer multiplies with: quantised ones, and adapters."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if _QUANTISED.search(name) or (tensor.is_floating_point() and tensor.dtype not in _FLOATS) or tensor.is_complex():
        raise CheckpointError(
            f"{path}: tensor {name} ({dtype}) belongs to quantised weights, which are not supported; "
            "load the original model, or dequantise this one and save it"
        )
    if _ADAPTER.search(name):
        raise CheckpointError(
            f"{path}: tensor {name} belongs to an adapter (LoRA), which is not supported; merge it into the weights"
        )


def _weight_map(path: Path) -> dict[str, str]:
    """The file of each tensor, as the index of the shards says."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map that names the shards")
    for shard in weight_map.values():
        if not isinstance(shard, str) or shard in ("", ".", "..") or "/" in shard or "\0" in shard:
            raise CheckpointError(f"{path}: weight_map should name files in the same directory, found {shard!r:.80}")
    if len(set(weight_map.values())) > _MOST_SHARDS:
        raise CheckpointError(f"{path} names more than {_MOST_SHARDS:,} shards; it is damaged")
    return weight_map


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Those that safetensors' `save_model` left out, as its metadata says, are there again."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if len(names) > _MOST_TENSORS:
            raise CheckpointError(f"{path} has {len(names):,} tensors, at most {_MOST_TENSORS:,} are read")
        tensors = {name: file.get_tensor(name) for name in names}
        aliases = file.metadata() or {}
    return tensors | {name: tensors[kept] for name, kept in aliases.items() if kept in tensors and name not in tensors}


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin`, by PyTorch's unpickler, which makes tensors and nothing else.

    Raises:
        UserError: if it holds something else, or its parts would take more memory than the file.
    """
    check_tensor_archive(path)
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} is not a dictionary of tensors")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: tensor {name!r:.80} is sparse or expanded; convert it to safetensors")
    return tensors


def _read_tensor_file(path: Path) -> dict[str, Tensor]:
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors and could run code on loading; convert it to safetensors first"
        ) from None
    except Exception as error:  # damaged pickles raise errors of any type
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is damaged or cut short ({reason:.200}); copy or download it again") from error
