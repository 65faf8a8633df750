"""A check that consecutive stages of training read texts in the same way.

Prompts, lengths and tokenisation must be the same from one stage to the next, or quality is lost (ColBERT-Zero, arXiv
2602.16609: prompts that are added or left out in a later stage only). A trained checkpoint therefore contains a record
of how its texts became tokens. A run that starts from this checkpoint and differs from the record is refused before its
first step.
"""

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from colbertz.errors import UserError
from colbertz.models import ColBERT
from colbertz.models.checkpoint.hub import resolve
from colbertz.models.checkpoint.json_files import read_json
from colbertz.models.checkpoint.read import read_source
from colbertz.models.checkpoint.save import save as save_checkpoint
from colbertz.models.projection import Projection
from colbertz.models.tokenizer import ColBERTSettings
from colbertz.training.config import ModelConfig

# File of the record in a checkpoint.
RECORD = "training.json"

_RECORDED = (
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
    "do_lower_case",
    "do_strip",
)


class Mismatch(UserError):
    """A stage would read texts differently from the stage before it."""


def describe(model: ColBERT) -> dict[str, Any]:
    """Everything that determines how texts become tokens, under the names of the settings."""
    tokenizer = model.tokenizer.backend.to_str().encode()
    return {**_describe_settings(model.settings), "tokenizer": hashlib.sha256(tokenizer).hexdigest()}


def _describe_settings(settings: ColBERTSettings) -> dict[str, Any]:
    values = {name: getattr(settings, name) for name in _RECORDED}
    values["skiplist_words"] = sorted(values["skiplist_words"])
    return {**values, "query_prompt": settings.prompt("query"), "document_prompt": settings.prompt("document")}


def save(model: ColBERT, directory: Path) -> None:
    """Save a checkpoint with its record; an old one is replaced by both together."""
    record = json.dumps(describe(model), indent=2, ensure_ascii=False) + "\n"
    projections = [cast(Projection, projection) for projection in model.projections]
    save_checkpoint(model.encoder, projections, model.tokenizer, directory, {RECORD: record})


def trained_settings(directory: Path, settings: ColBERTSettings) -> dict[str, Any]:
    """The settings that a checkpoint was trained with and no longer has; a further stage starts from them.

    A finished model may read longer documents than it was trained on.

    Args:
        directory: of the checkpoint.
        settings: those of the checkpoint.

    Returns:
        Values of settings of `ModelConfig`, by name; empty if the checkpoint has no record.
    """
    if not (directory / RECORD).is_file():
        return {}
    before, now = read_json(directory / RECORD), _describe_settings(settings)
    names = {field.name for field in fields(ModelConfig)}
    return {name: before[name] for name in now if name in names and name in before and before[name] != now[name]}


def check(config: ModelConfig, model: ColBERT) -> None:
    """Compare a model that is about to be trained with the checkpoint that it starts from.

    It is compared with the record in the checkpoint, or without a record with the checkpoint's settings. A bare encoder
    has neither and is not checked.

    Raises:
        Mismatch: with every setting that differs and is not allowed to by `config.allow_mismatch`.
    """
    if config.init is None or config.allow_mismatch is True:
        return
    directory = resolve(config.init)
    source = read_source(directory)
    if (directory / RECORD).is_file():
        before = read_json(directory / RECORD)
    elif source.has_projection:
        before = _describe_settings(source.settings)
    else:
        return
    may_differ = config.allow_mismatch or []
    now = describe(model)
    differing = [name for name in now if name in before and name not in may_differ and now[name] != before[name]]
    if differing:
        differences = "; ".join(f"{name} was {before[name]!r:.60} and is {now[name]!r:.60}" for name in differing)
        settable = {field.name for field in fields(ModelConfig)}.intersection(differing)
        lines = [f"{name}: {json.dumps(before[name])}" for name in differing if name in settable]
        as_before = f"to read texts as before, add below `model:` the lines `{'`, `'.join(lines)}`; " if lines else ""
        raise Mismatch(
            f"{config.init} was trained on texts that look different from this run's, which costs quality: "
            f"{differences}. {as_before[:1].upper()}{as_before[1:]}{'to' if lines else 'To'} train with the "
            f"differences, add `allow_mismatch: [{', '.join(differing)}]` (model.allow_mismatch)"
        )
