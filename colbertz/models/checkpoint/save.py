"""Writing the parts of a ColBERT as a checkpoint directory in PyLate's layout."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from safetensors.torch import save as serialized
from torch import nn

from colbertz import __version__
from colbertz.files import replaced_directory
from colbertz.models.checkpoint.layouts import FILES
from colbertz.models.encoders.base import Encoder
from colbertz.models.encoders.int8 import check_has_weights
from colbertz.models.projection import Projection
from colbertz.models.tokenizer import ColBERTTokenizer

# Files of the dense layers and of weights in shards; the other files of a checkpoint are named in `FILES`.
_MORE_FILES = re.compile(
    r"\d+_\w+/(config\.json|model(-int8)?\.safetensors|pytorch_model\.bin)"
    r"|(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)"
)


def is_of_checkpoint(path: str) -> bool:
    """Whether a path within a directory is that of a file of a checkpoint, in one of the layouts that are read here.

    A new checkpoint replaces all of them: readers would take one that stays for a part of it.
    """
    return path in astuple(FILES) or _MORE_FILES.fullmatch(path) is not None


def save(
    encoder: Encoder,
    projections: Sequence[Projection],
    tokenizer: ColBERTTokenizer,
    directory: str | Path,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a checkpoint; an existing one is replaced only when all files are written.

    Other files in the directory stay, such as a README or exported ONNX files; those of the old checkpoint do not (see
    `is_of_checkpoint`).

    Args:
        encoder, projections, tokenizer: the parts.
        directory: of the checkpoint.
        beside: names and contents of text files that are written with it.

    Raises:
        NotADirectoryError: if `directory` is a file.
        UserError: if the encoder is quantised.
    """
    check_has_weights(cast(nn.Module, encoder), "save")
    settings = asdict(tokenizer.settings)
    lower_case = settings.pop("do_lower_case")
    settings["skiplist_words"] = list(settings["skiplist_words"])
    max_length = max(tokenizer.settings.query_length, tokenizer.settings.document_length)
    dtype = str(encoder.token_embeddings.weight.dtype).removeprefix("torch.")
    folders = [f"{number}_Dense" for number in range(1, len(projections) + 1)]
    with replaced_directory(Path(directory), is_of_checkpoint) as out:
        _write_json(out / FILES.config, {**encoder.config.to_dict(), "dtype": dtype})
        _write_tensors(out / FILES.weights, cast(nn.Module, encoder))
        for folder, projection in zip(folders, projections):
            (out / folder).mkdir()
            _write_json(out / folder / FILES.config, projection.to_dict())
            _write_tensors(out / folder / FILES.weights, projection)
        # Not `Tokenizer.save`, whose errors are not OSErrors.
        (out / FILES.tokenizer).write_text(tokenizer.backend.to_str(pretty=True), encoding="utf-8")
        special_tokens = tokenizer.special_tokens
        about_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
        _write_json(out / FILES.tokenizer_config, {**about_tokenizer, **special_tokens})
        _write_json(out / FILES.special_tokens, special_tokens)
        _write_json(out / FILES.transformer, {"max_seq_length": max_length, "do_lower_case": lower_case})
        _write_json(out / FILES.modules, _modules(folders))
        for name, text in beside.items():
            (out / name).write_text(text, encoding="utf-8")
        about = {"model_type": "ColBERT", "__version__": {"colbertz": __version__, "pytorch": torch.__version__}}
        _write_json(out / FILES.settings, {**about, **settings, "similarity_fn_name": "MaxSim"})


def _modules(folders: Sequence[str]) -> list[dict[str, Any]]:
    """The content of modules.json: the encoder in the directory itself, and a folder for each projection."""
    modules = [("", "sentence_transformers.models.Transformer")]
    modules += [(folder, "pylate.models.Dense.Dense") for folder in folders]
    return [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tensors(path: Path, module: nn.Module) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    # Not `save_file`: only the owner may read the files that it writes.
    path.write_bytes(serialized(tensors, metadata={"format": "pt"}))
