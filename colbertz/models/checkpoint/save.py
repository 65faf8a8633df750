"""Writing the parts of a ColBERT as a checkpoint directory in PyLate's layout."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save as serialized
from torch import nn

from colbertz import __version__
from colbertz.files import replaced_directory
from colbertz.models.checkpoint.layouts import FILES
from colbertz.models.encoders.base import Encoder
from colbertz.models.projection import Projection
from colbertz.models.tokenizer import ColBERTTokenizer


def save(
    encoder: Encoder, projections: Sequence[Projection], tokenizer: ColBERTTokenizer, directory: str | Path
) -> None:
    """Write a checkpoint; an existing directory is replaced only when all files are written.

    Raises:
        NotADirectoryError: if `directory` is a file.
    """
    settings = asdict(tokenizer.settings)
    lower_case = settings.pop("do_lower_case")
    settings["skiplist_words"] = list(settings["skiplist_words"])
    max_length = max(tokenizer.settings.query_length, tokenizer.settings.document_length)
    dtype = str(encoder.token_embeddings.weight.dtype).removeprefix("torch.")
    folders = [f"{number}_Dense" for number in range(1, len(projections) + 1)]
    with replaced_directory(Path(directory)) as out:
        _write_json(out / FILES.config, {**encoder.config.to_dict(), "dtype": dtype})
        _write_tensors(out / FILES.weights, cast(nn.Module, encoder))
        for folder, projection in zip(folders, projections):
            (out / folder).mkdir()
            _write_json(out / folder / FILES.config, projection.to_dict())
            _write_tensors(out / folder / FILES.weights, projection)
        tokenizer.backend.save(str(out / FILES.tokenizer))
        special_tokens = tokenizer.special_tokens
        about_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
        _write_json(out / FILES.tokenizer_config, {**about_tokenizer, **special_tokens})
        _write_json(out / FILES.special_tokens, special_tokens)
        _write_json(out / FILES.transformer, {"max_seq_length": max_length, "do_lower_case": lower_case})
        _write_json(out / FILES.modules, _modules(folders))
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
