"""Reading a checkpoint directory: all input of the package's model files, and nothing but input.

First phase of loading; assemble.py is the second. Errors name file, field and remedy. No code in a checkpoint is ever
executed.
"""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from colbertz.models.checkpoint.layouts import (
    FILES,
    CheckpointError,
    Source,
    locate_modules,
    pylate_settings,
    sentence_transformers_settings,
    stanford_settings,
)

# What BERT's vocab.txt implies where no other file names the tokens.
_BERT_SPECIAL_TOKENS = {"mask_token": "[MASK]", "unk_token": "[UNK]", "pad_token": "[PAD]"}


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
    if (directory / FILES.modules).is_file():
        return _read_modules(directory)
    if not (directory / FILES.config).is_file():
        raise CheckpointError(
            f"{directory} is not a checkpoint: it has neither {FILES.modules} nor {FILES.config}; "
            "give the directory that save_pretrained wrote or that the hub shows"
        )
    config = read_json(directory / FILES.config)
    if (config.get("architectures") or [None])[0] == "HF_ColBERT":
        path = directory / FILES.stanford
        return Source("stanford", directory, config, settings=stanford_settings(path, _read_json_if_there(path)))
    return Source("encoder", directory, config)


def _read_modules(directory: Path) -> Source:
    """PyLate's and sentence-transformers' layout: a list of modules, each in a folder of its own."""
    saved = _read_json_if_there(directory / FILES.settings)
    modules = locate_modules(directory, read_json(directory / FILES.modules, kind=list))
    mask = {} if modules.mask is None else read_json(modules.mask / FILES.config)
    transformer = _read_json_if_there(modules.encoder / FILES.transformer)
    if saved.get("model_type") != "MultiVectorEncoder":
        settings = pylate_settings(directory / FILES.settings, saved, transformer)
        config = read_json(modules.encoder / FILES.config)
        return Source("pylate", modules.encoder, config, modules.projections, settings)
    tokenizer = _read_json_if_there(directory / FILES.tokenizer_config)
    root_config = read_json(directory / FILES.config)
    longest = [tokenizer.get("model_max_length"), root_config.get("max_position_embeddings")]
    settings = sentence_transformers_settings(directory, saved, transformer, mask, longest)
    config = read_json(modules.encoder / FILES.config)
    return Source("sentence-transformers", modules.encoder, config, modules.projections, settings)


def read_contents(source: Source) -> Contents:
    """Read the weights and the tokenizer of a checkpoint.

    Args:
        source: as `read_source` returned it.

    Raises:
        CheckpointError: if a file is missing or damaged, or a weight is NaN or infinite.
    """
    tensors = read_tensors(source.encoder)
    projections = [Dense(path, read_json(path / FILES.config), read_tensors(path)) for path in source.projections]
    tokenizer, special_tokens = _read_tokenizer_files(source.encoder)
    return Contents(source, tensors, projections, tokenizer, special_tokens)


# -- JSON --------------------------------------------------------------------------------------------------------------


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file whose top level must be of type `kind`.

    Raises:
        CheckpointError: if the file is missing, no JSON, or of another type.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete, copy or download it again") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); copy or download it again") from None
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} should hold a JSON {kind.__name__}, found {type(content).__name__}")
    return content


def _read_json_if_there(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content


# -- weights -----------------------------------------------------------------------------------------------------------


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of a directory: one safetensors file, its shards, or a `.bin` that holds nothing but tensors.

    Raises:
        CheckpointError: if there are none, a file is damaged, or a weight is NaN or infinite.
    """
    for file in (FILES.weights, FILES.weights_index, FILES.weights_pickled, FILES.weights_pickled_index):
        path = directory / file
        if path.is_file():
            break
    else:
        raise CheckpointError(
            f"{directory} has no weights: neither {FILES.weights} nor {FILES.weights_pickled}, whole or in shards"
        )
    tensors = _read_shards(path) if path.suffix == ".json" else _read_tensor_file(path)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: tensor {key} has NaN or infinite values; the training that wrote it diverged"
            )
    return tensors


def _read_shards(path: Path) -> dict[str, Tensor]:
    """All tensors of the files that an index names; files outside its own directory are never read."""
    weight_map = read_json(path).get("weight_map", {})
    if not weight_map:
        raise CheckpointError(f"{path} has no weight_map that names the shards")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        tensors |= _read_tensor_file(path.parent / Path(shard).name)
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise CheckpointError(f"{path} promises tensor {missing[0]}, which is in none of the shards")
    return tensors


def _read_tensor_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete, copy or download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); copy or download it again") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors and could run code on loading; convert it to safetensors first"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); copy or download it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path} is not a dictionary of tensors")
    return tensors


# -- tokenizer ---------------------------------------------------------------------------------------------------------


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the only type that the tokenizers library raises
        raise CheckpointError(f"{path} cannot be read by the tokenizers library ({error})") from error


def _read_tokenizer_files(directory: Path) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer of a directory, and its special tokens by their roles."""
    config = _read_json_if_there(directory / FILES.tokenizer_config)
    special_tokens: dict[str, str] = {}
    for roles in (_read_json_if_there(directory / FILES.special_tokens), config):
        for role, token in roles.items():
            text = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(text, str):
                special_tokens[role] = text
    if (directory / FILES.tokenizer).is_file():
        return read_tokenizer(directory / FILES.tokenizer), special_tokens
    vocabulary = directory / FILES.vocabulary
    if not vocabulary.is_file():
        raise CheckpointError(
            f"{directory} has no {FILES.tokenizer} (nor a {FILES.vocabulary}); add the tokenizer's files"
        )
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    word_pieces = BertWordPieceTokenizer(str(vocabulary), lowercase=config.get("do_lower_case", True))
    return Tokenizer.from_str(word_pieces.to_str()), {**_BERT_SPECIAL_TOKENS, **special_tokens}
