"""The checkpoint directories that people have, each read into the same `Source`.

PyLate and sentence-transformers (`modules.json`), Stanford (`HF_ColBERT`, `artifact.metadata`) and bare Hugging Face
encoders. colbertz writes PyLate's layout, which the others read.
"""

import string
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from colbertz.models.checkpoint.read import FILES, CheckpointError, read_json
from colbertz.models.tokenizer import ColBERTSettings


@dataclass(frozen=True)
class Source:
    """Where the parts of a checkpoint lie and what it says about texts.

    Attributes:
        encoder: directory of the encoder and the tokenizer.
        config: the encoder's `config.json`.
        projections: directories of the dense layers, in order.
        settings: lengths, prefixes, prompts …
        stanford: whether the projection is the tensor `linear.weight` beside the encoder's tensors.
        unknown_words_skip: whether a skiplist word that is no token stands for [UNK] (PyLate) or for nothing
            (sentence-transformers).
    """

    encoder: Path
    config: dict[str, Any]
    projections: list[Path] = field(default_factory=list)
    settings: ColBERTSettings = field(default_factory=ColBERTSettings)
    stanford: bool = False
    unknown_words_skip: bool = True


def find_source(directory: Path) -> Source:
    """Recognise a checkpoint directory.

    Raises:
        CheckpointError: if it is none, or uses modules that are not understood.
    """
    if (directory / FILES.modules).is_file():
        return _modules(directory)
    if not (directory / FILES.config).is_file():
        raise CheckpointError(
            f"{directory} is not a checkpoint: it has neither {FILES.modules} nor {FILES.config}; "
            "give the directory that save_pretrained wrote or that the hub shows"
        )
    config = read_json(directory / FILES.config)
    if (config.get("architectures") or [None])[0] == "HF_ColBERT":
        return Source(directory, config, settings=_stanford_settings(directory), stanford=True)
    return Source(directory, config)


def _modules(directory: Path) -> Source:
    """PyLate's and sentence-transformers' layout: a list of modules, each in a folder of its own."""
    settings_path = directory / FILES.settings
    saved = read_json(settings_path) if settings_path.is_file() else {}
    encoder, projections, mask = None, [], None
    for module in read_json(directory / FILES.modules, kind=list):
        if not isinstance(module, dict):
            raise CheckpointError(
                f"{directory / FILES.modules} should list objects with path and type, found {module!r}"
            )
        kind = str(module.get("type", "")).rpartition(".")[2]
        path = directory / str(module.get("path", ""))
        if kind == "Transformer":
            encoder = path
        elif kind == "Dense":
            projections.append(path)
        elif kind == "MultiVectorMask":
            mask = read_json(path / FILES.config)
        # Normalisation ends every ColBERT without being asked, and sentence pooling has no place in one.
        elif kind not in ("Normalize", "Pooling"):
            raise CheckpointError(f"{directory / FILES.modules}: module type {module.get('type')!r} is not supported")
    if encoder is None:
        raise CheckpointError(f"{directory / FILES.modules} lists no Transformer module")
    transformer_path = encoder / FILES.transformer
    transformer = read_json(transformer_path) if transformer_path.is_file() else {}
    multi_vector = saved.get("model_type") == "MultiVectorEncoder"
    if multi_vector:
        settings = _multi_vector_settings(directory, saved, transformer, mask or {})
    else:
        settings = _pylate_settings(settings_path, saved, transformer)
    config = read_json(encoder / FILES.config)
    return Source(encoder, config, projections, settings, unknown_words_skip=not multi_vector)


def _build_settings(path: Path, values: dict[str, Any]) -> ColBERTSettings:
    try:
        return replace(ColBERTSettings(), **{key: value for key, value in values.items() if value is not None})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _pylate_settings(path: Path, saved: dict[str, Any], transformer: dict[str, Any]) -> ColBERTSettings:
    keys = (
        *("query_prefix", "document_prefix", "query_length", "document_length", "do_query_expansion"),
        *("attend_to_expansion_tokens", "skiplist_words", "prompts", "default_prompt_name", "do_strip"),
    )
    values = {key: saved.get(key) for key in keys}
    return _build_settings(path, {**values, "do_lower_case": transformer.get("do_lower_case")})


def _multi_vector_settings(
    directory: Path, saved: dict[str, Any], transformer: dict[str, Any], mask: dict[str, Any]
) -> ColBERTSettings:
    """sentence-transformers 6: prefixes are part of the prompts, expansion is described on the Transformer module."""
    expansion = transformer.get("query_expansion")
    if expansion and (expansion.get("strategy") != "fixed" or expansion.get("token") is not None):
        raise CheckpointError(
            f"{directory / FILES.transformer}: query_expansion {expansion} is not supported, only the strategy 'fixed' "
            "with the tokenizer's own mask token"
        )
    if mask.get("skiplist_tasks", ["document"]) != ["document"] or mask.get("keep_only_token_ids"):
        raise CheckpointError(
            f"{directory / FILES.modules}: MultiVectorMask {mask} is not supported, only a document skiplist"
        )
    tokenizer_path = directory / FILES.tokenizer_config
    longest = (read_json(tokenizer_path) if tokenizer_path.is_file() else {}).get("model_max_length")
    longest = min(
        transformer.get("max_seq_length") or 10**9,
        longest or 10**9,
        read_json(directory / FILES.config).get("max_position_embeddings") or 10**9,
    )
    values = {
        "query_prefix": "",
        "document_prefix": "",
        "query_length": expansion["length"] if expansion else transformer.get("query_length") or longest,
        "document_length": transformer.get("document_length") or longest,
        "do_query_expansion": bool(expansion),
        "attend_to_expansion_tokens": bool(expansion and expansion.get("attend")),
        "skiplist_words": tuple(mask.get("skiplist_words") or ()),
        "prompts": {name: text for name, text in (saved.get("prompts") or {}).items() if text},
        "default_prompt_name": saved.get("default_prompt_name"),
        "do_lower_case": transformer.get("do_lower_case"),
        "do_strip": False,
    }
    return _build_settings(directory / FILES.settings, values)


def _stanford_settings(directory: Path) -> ColBERTSettings:
    path = directory / FILES.stanford
    saved = read_json(path) if path.is_file() else {}
    values = {
        "query_prefix": saved.get("query_token_id") or "[unused0]",
        "document_prefix": saved.get("doc_token_id") or "[unused1]",
        "query_length": saved.get("query_maxlen"),
        "document_length": saved.get("doc_maxlen"),
        "attend_to_expansion_tokens": saved.get("attend_to_mask_tokens"),
        "skiplist_words": tuple(string.punctuation) if saved.get("mask_punctuation", True) else (),
    }
    return _build_settings(path, values)
