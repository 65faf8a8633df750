"""Reading and publishing the files of a checkpoint. Errors name file, field and remedy; nothing is ever executed."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class CheckpointFiles:
    """Names inside a checkpoint directory."""

    config: str = "config.json"
    weights: str = "model.safetensors"
    weights_index: str = "model.safetensors.index.json"
    weights_pickled: str = "pytorch_model.bin"
    weights_pickled_index: str = "pytorch_model.bin.index.json"
    tokenizer: str = "tokenizer.json"
    vocabulary: str = "vocab.txt"
    tokenizer_config: str = "tokenizer_config.json"
    special_tokens: str = "special_tokens_map.json"
    modules: str = "modules.json"
    transformer: str = "sentence_bert_config.json"
    settings: str = "config_sentence_transformers.json"
    stanford: str = "artifact.metadata"


FILES = CheckpointFiles()


class CheckpointError(ValueError):
    """A checkpoint directory that cannot be used; the message says which file, what is wrong and what to do."""


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
    if path.suffix == ".json":
        index = read_json(path)
        shards = sorted(set(index.get("weight_map", {}).values()))
        if not shards:
            raise CheckpointError(f"{path} has no weight_map that names the shards")
        tensors: dict[str, Tensor] = {}
        for shard in shards:
            tensors |= _read_tensor_file(directory / Path(shard).name)
        missing = sorted(set(index["weight_map"]) - set(tensors))
        if missing:
            raise CheckpointError(f"{path} promises tensor {missing[0]}, which is in none of the shards")
    else:
        tensors = _read_tensor_file(path)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: tensor {key} has NaN or infinite values; the training that wrote it diverged"
            )
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


def load_weights(module: torch.nn.Module, tensors: dict[str, Tensor], origin: Path, dtype: torch.dtype) -> None:
    """Give `module` the tensors of its parameters, cast to `dtype`.

    Raises:
        CheckpointError: naming the first tensor that is missing or has another shape.
    """
    state = {}
    for name, parameter in module.state_dict().items():
        if name not in tensors:
            raise CheckpointError(f"{origin} lacks tensor {name}; is config.json of the same model as the weights?")
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"{origin}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                f"config.json asks for {tuple(parameter.shape)}"
            )
        state[name] = tensors[name].to(dtype)
    module.load_state_dict(state, assign=True)
