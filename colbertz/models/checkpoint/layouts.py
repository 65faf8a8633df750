"""The layouts of checkpoint directories that people have: which file says what, and what it means.

PyLate and sentence-transformers (`modules.json`), Stanford (`HF_ColBERT`, `artifact.metadata`) and bare Hugging Face
encoders. colbertz writes PyLate's layout, which the others read. Nothing here reads a file: read.py does, and passes
the content of the JSON files. That content may be of any type, which is checked here.
"""

import logging
import string
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from colbertz.errors import UserError
from colbertz.models.tokenizer import LONGEST, ColBERTSettings
from colbertz.untrusted import check_inside

logger = logging.getLogger(__name__)

# Modules of a checkpoint; published ones have up to five.
_MOST_MODULES = 32

Layout = Literal["pylate", "sentence-transformers", "stanford", "encoder"]


@dataclass(frozen=True)
class CheckpointFiles:
    """Names inside a checkpoint directory."""

    config: str = "config.json"
    weights: str = "model.safetensors"
    weights_int8: str = "model-int8.safetensors"
    weights_index: str = "model.safetensors.index.json"
    weights_pickled: str = "pytorch_model.bin"
    weights_pickled_index: str = "pytorch_model.bin.index.json"
    tokenizer: str = "tokenizer.json"
    vocabulary: str = "vocab.txt"
    tokenizer_config: str = "tokenizer_config.json"
    special_tokens: str = "special_tokens_map.json"
    added_tokens: str = "added_tokens.json"
    adapter: str = "adapter_config.json"
    modules: str = "modules.json"
    transformer: str = "sentence_bert_config.json"
    settings: str = "config_sentence_transformers.json"
    stanford: str = "artifact.metadata"


FILES = CheckpointFiles()


class CheckpointError(UserError):
    """A checkpoint directory that cannot be used; the message says which file, what is wrong and what to do."""


@dataclass(frozen=True)
class Source:
    """Where the parts of a checkpoint lie, and what it says about texts.

    Attributes:
        layout: whose layout it is; "encoder" for a bare one.
        encoder: directory of the encoder and the tokenizer.
        config: the encoder's `config.json`.
        projections: directories of the dense layers, in order. Stanford's projection is not among them: it is the
            tensor `linear.weight` beside the encoder's tensors.
        settings: lengths, prefixes, prompts …
    """

    layout: Layout
    encoder: Path
    config: dict[str, Any]
    projections: list[Path] = field(default_factory=list)
    settings: ColBERTSettings = field(default_factory=ColBERTSettings)

    @property
    def has_projection(self) -> bool:
        """Whether it is a ColBERT, whose settings belong to its weights, and not an encoder alone."""
        return self.layout == "stanford" or bool(self.projections)


@dataclass(frozen=True)
class Modules:
    """The directories that a `modules.json` lists.

    Attributes:
        encoder: of the encoder and the tokenizer.
        projections: of the dense layers, in order.
        mask: of sentence-transformers' `MultiVectorMask`, which holds the skiplist; None if there is none.
    """

    encoder: Path
    projections: list[Path]
    mask: Path | None


def locate_modules(directory: Path, modules: list[Any]) -> Modules:
    """Find the parts of PyLate's and sentence-transformers' layout.

    Args:
        directory: of the checkpoint.
        modules: the content of its `modules.json`.

    Raises:
        CheckpointError: if a module is not supported, or there is no encoder.
    """
    origin = directory / FILES.modules
    encoder, projections, mask, pooled = None, [], None, False
    if len(modules) > _MOST_MODULES:
        raise CheckpointError(f"{origin} lists {len(modules):,} modules, at most {_MOST_MODULES} are supported")
    for module in modules:
        if not isinstance(module, dict):
            raise CheckpointError(f"{origin} should list objects with path and type, found {module!r}")
        kind = str(module.get("type", "")).rpartition(".")[2]
        path = directory / str(module.get("path", ""))
        try:
            check_inside(directory, path)
            path.exists()
        except (ValueError, OSError) as error:  # a path that leads outside, has a zero, or is too long for the system
            raise CheckpointError(f"{origin}: {error}") from None
        if kind == "Transformer":
            encoder = path
        elif kind == "Dense":
            if pooled:
                logger.warning(
                    "%s: %s was trained on one vector a text, after Pooling, and not on tokens", origin, path.name
                )
            projections.append(path)
        elif kind == "MultiVectorMask":
            mask = path
        elif kind == "Pooling":
            pooled = True
        # A ColBERT always normalises, and it never pools a text to one embedding.
        elif kind != "Normalize":
            raise CheckpointError(f"{origin}: module type {module.get('type')!r} is not supported")
    if encoder is None:
        raise CheckpointError(f"{origin} lists no Transformer module")
    return Modules(encoder, projections, mask)


def pylate_settings(origin: Path, saved: dict[str, Any], transformer: dict[str, Any]) -> ColBERTSettings:
    """PyLate's settings.

    Args:
        origin: the path of config_sentence_transformers.json, for messages.
        saved: its content.
        transformer: the content of sentence_bert_config.json.
    """
    keys = (
        *("query_prefix", "document_prefix", "query_length", "document_length", "do_query_expansion"),
        *("attend_to_expansion_tokens", "skiplist_words", "prompts", "default_prompt_name", "do_strip"),
    )
    values = {key: saved.get(key) for key in keys}
    return _settings(origin, {**values, "do_lower_case": transformer.get("do_lower_case")})


def sentence_transformers_settings(
    directory: Path,
    saved: dict[str, Any],
    transformer: dict[str, Any],
    mask: dict[str, Any],
    longest: list[int],
) -> ColBERTSettings:
    """Settings of sentence-transformers 6: prefixes are part of the prompts, the Transformer describes the expansion.

    Args:
        directory: of the checkpoint, for messages.
        saved: the content of config_sentence_transformers.json.
        transformer: the content of sentence_bert_config.json.
        mask: the content of MultiVectorMask's config.json.
        longest: lengths that no text may exceed, such as the tokenizer's.

    Raises:
        CheckpointError: if the expansion or the mask is of a kind that is not supported.
    """
    expansion = _typed(directory / FILES.transformer, transformer, "query_expansion", dict)
    skiplist = _typed(directory / FILES.modules, mask, "skiplist_words", list)
    prompts = _typed(directory / FILES.settings, saved, "prompts", dict)
    lengths = [_typed(directory / FILES.transformer, transformer, "max_seq_length", int), *longest]
    is_fixed = expansion and expansion.get("strategy") == "fixed" and type(expansion.get("length")) is int
    if expansion and (not is_fixed or expansion.get("token") is not None):
        raise CheckpointError(
            f"{directory / FILES.transformer}: query_expansion {expansion!r:.200} is not supported, only the "
            "strategy 'fixed' with the tokenizer's own mask token"
        )
    if mask.get("skiplist_tasks", ["document"]) != ["document"] or mask.get("keep_only_token_ids"):
        raise CheckpointError(
            f"{directory / FILES.modules}: MultiVectorMask {mask!r:.200} is not supported, only a document skiplist"
        )
    limit = min([LONGEST, *(length for length in lengths if length)])
    values = {
        "query_prefix": "",
        "document_prefix": "",
        "query_length": expansion["length"] if expansion else transformer.get("query_length") or limit,
        "document_length": transformer.get("document_length") or limit,
        "do_query_expansion": bool(expansion),
        "attend_to_expansion_tokens": bool(expansion and expansion.get("attend")),
        "skiplist_words": tuple(skiplist or ()),
        "prompts": {name: text for name, text in (prompts or {}).items() if text},
        "default_prompt_name": saved.get("default_prompt_name"),
        "do_lower_case": transformer.get("do_lower_case"),
        "do_strip": False,
    }
    return _settings(directory / FILES.settings, values)


def stanford_settings(origin: Path, saved: dict[str, Any]) -> ColBERTSettings:
    """Stanford's settings.

    Args:
        origin: the path of artifact.metadata, for messages.
        saved: its content; empty if there is no such file.
    """
    values = {
        "query_prefix": saved.get("query_token_id") or "[unused0]",
        "document_prefix": saved.get("doc_token_id") or "[unused1]",
        "query_length": saved.get("query_maxlen"),
        "document_length": saved.get("doc_maxlen"),
        "attend_to_expansion_tokens": saved.get("attend_to_mask_tokens"),
        "skiplist_words": tuple(string.punctuation) if saved.get("mask_punctuation", True) else (),
    }
    return _settings(origin, values)


def _typed(origin: Path, content: dict[str, Any], key: str, kind: type) -> Any:
    """The value of a key, or None where it is null or missing; CheckpointError if it is of another type."""
    value = content.get(key)
    if value is not None and type(value) is not kind:
        raise CheckpointError(f"{origin}: {key} should be of type {kind.__name__}, found {value!r:.80}")
    return value


def _settings(origin: Path, values: dict[str, Any]) -> ColBERTSettings:
    """The settings with these values; a value of None stands for the default."""
    try:
        return replace(ColBERTSettings(), **{key: value for key, value in values.items() if value is not None})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{origin}: {error}") from error
