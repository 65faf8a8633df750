"""Making the parts of a ColBERT: from what read.py read, or from nothing with fresh weights. No input, no output.

Second phase of loading. The parts are an encoder, a chain of projections, and a tokenizer.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.models.checkpoint.layouts import FILES, CheckpointError, Source
from colbertz.models.checkpoint.meta import without_memory
from colbertz.models.checkpoint.names import of_encoder, unwrapped
from colbertz.models.checkpoint.read import Contents, Dense
from colbertz.models.encoders.base import Encoder, EncoderConfig, family_of
from colbertz.models.encoders.int8 import quantise
from colbertz.models.projection import Projection
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer

logger = logging.getLogger(__name__)

# E where nothing says otherwise.
_EMBEDDING_DIM = 128
# Parts of whole models that sit on an encoder and that a ColBERT has no use for.
_HEADS = ("head.", "decoder.", "cls.", "pooler.", "classifier.", "linear.", "embeddings.position_ids", "lm_head.")
# Keys of config.json that say that the weights are quantised.
_QUANTISATION = ("quantization_config", "compression_config")
# Standard deviation of new rows of the embedding matrix, as a share of that of the old rows.
_NEW_ROW_NOISE = 0.1
# The special tokens that a tokenizer for training from scratch must have.
_SPECIAL_TOKENS = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}


class Parts(NamedTuple):
    """What `ColBERT` is made of."""

    encoder: Encoder
    projections: list[Projection]
    tokenizer: ColBERTTokenizer


def assemble(
    contents: Contents,
    dtype: torch.dtype,
    embedding_dim: int | None,
    seed: int,
    overrides: Mapping[str, Any],
    in_int8: bool = False,
) -> Parts:
    """Make the parts of a checkpoint. For the arguments see `ColBERT.from_pretrained`.

    With `in_int8` the encoder is quantised, from the numbers of the checkpoint and not from those in `dtype`.

    Raises:
        CheckpointError: if the contents do not fit together, or describe something that is not supported.
        TypeError: if an override names no setting.
        UserError: if the processor cannot run what is quantised.
    """
    source = contents.source
    encoder = _encoder(contents, torch.float32 if in_int8 else dtype)
    projections = [_projection(dense, dtype) for dense in contents.projections]
    if source.layout == "stanford":
        projections = [_stanford_projection(contents, dtype)]
    last = projections[-1].out_features if projections else None
    if last is None or (embedding_dim is not None and embedding_dim != last):
        in_features, out_features = last or encoder.config.hidden_size, embedding_dim or _EMBEDDING_DIM
        projections.append(_new_projection(source, in_features, out_features, dtype, seed))
    _check_chain(source, encoder, projections)
    settings = source.settings.overridden(overrides)
    if source.layout == "sentence-transformers":
        # There a skiplist word that is no token stands for nothing; in PyLate, and in our tokenizer, for [UNK].
        known = (word for word in settings.skiplist_words if contents.tokenizer.token_to_id(word) is not None)
        settings = replace(settings, skiplist_words=tuple(known))
    tokenizer = ColBERTTokenizer(contents.tokenizer, settings, contents.special_tokens)
    _grow_vocabulary(source, encoder, tokenizer, seed)
    if in_int8:
        quantise(cast(nn.Module, encoder))
        cast(nn.Module, encoder).to(dtype)
    return Parts(encoder, projections, tokenizer)


def from_scratch(
    config: EncoderConfig, tokenizer: Tokenizer, settings: ColBERTSettings, embedding_dim: int, seed: int
) -> Parts:
    """Make untrained parts. For the arguments see `ColBERT.from_scratch`.

    Raises:
        UserError: if the encoder's family is unknown, the tokenizer lacks a special token, or the weights take
            more memory than this machine has.
    """
    family = family_of(getattr(config, "model_type", config))
    for role, token in _SPECIAL_TOKENS.items():
        if tokenizer.token_to_id(token) is None:
            raise UserError(f"the tokenizer has no {role} {token}")
    wrapped = ColBERTTokenizer(tokenizer, settings, dict(_SPECIAL_TOKENS))
    ids = {f"{role}_id": tokenizer.token_to_id(token) for role, token in _SPECIAL_TOKENS.items()}
    ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    sizes = config.to_dict() | ids | {"vocab_size": wrapped.vocab_size}
    with without_memory():
        _checked_number(family.module(family.config.from_dict(sizes)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = family.module(family.config.from_dict(sizes))
        encoder.reset_parameters()
        projection = Projection(config.hidden_size, embedding_dim)
    return Parts(encoder, [projection], wrapped)


def encoder_config(source: Source) -> EncoderConfig:
    """The configuration of a checkpoint's encoder.

    Raises:
        CheckpointError: if its family is unknown, or it has something that the family does not support.
    """
    for key in _QUANTISATION:
        if source.config.get(key):
            method = source.config[key].get("quant_method") if isinstance(source.config[key], dict) else None
            raise CheckpointError(
                f"{source.encoder / FILES.config}: {key} ({method or 'no quant_method'}) says that the weights are "
                "quantised, which is not supported; load the original model, or dequantise this one and save it"
            )
    try:
        return family_of(source.config.get("model_type")).config.from_dict(source.config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source.encoder / FILES.config}: {error}") from error


def check_size(source: Source) -> int:
    """The number of parameters of a checkpoint's encoder, before anything of it is in memory.

    Raises:
        CheckpointError: as `encoder_config`, and if this machine has less memory than the weights take.
    """
    config = encoder_config(source)
    with without_memory():
        encoder = family_of(config.model_type).module(config)
    try:
        return _checked_number(encoder)
    except UserError as error:
        raise CheckpointError(f"{source.encoder / FILES.config}: {error}") from None


def _checked_number(encoder: Encoder) -> int:
    """The number of an encoder's parameters; UserError if this machine has less memory than they take in float32."""
    number = sum(parameter.numel() for parameter in encoder.parameters())
    needed, memory = 4 * number, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"an encoder of these sizes has {number:,} parameters and takes {needed / 1e9:,.0f} GB, this machine has "
            f"{memory / 1e9:,.0f}"
        )
    return number


# -- encoder -----------------------------------------------------------------------------------------------------------


def _encoder(contents: Contents, dtype: torch.dtype) -> Encoder:
    source, config = contents.source, encoder_config(contents.source)
    with without_memory():
        encoder = family_of(config.model_type).module(config)
    module = cast(nn.Module, encoder)
    embedding = next(name for name, p in module.named_parameters() if p is encoder.token_embeddings.weight)
    tied = source.config.get("tie_word_embeddings") is not False
    plain = unwrapped(contents.tensors, source.encoder)
    tensors = of_encoder(plain, module.state_dict(), embedding, tied, source.encoder)
    used = _load_weights(module, tensors, source.encoder, dtype)
    unused = sorted(name for name in set(tensors) - used if not name.startswith(_HEADS))
    if unused:
        logger.warning("%s: %d tensors are not used, the first is %s", source.encoder, len(unused), unused[0])
    return encoder.eval()


def _load_weights(module: nn.Module, tensors: Mapping[str, Tensor], origin: Path, dtype: torch.dtype) -> set[str]:
    """Give `module` the tensors of its parameters, cast to `dtype`, and return their names.

    Raises:
        CheckpointError: naming the first tensor that is missing, has another shape, or holds integers.
    """
    state = {}
    for name, parameter in module.state_dict().items():
        if name not in tensors:
            raise CheckpointError(
                f"{origin} lacks tensor {name}, its first is {min(tensors, default='missing too')}; "
                "is config.json of the same model as the weights?"
            )
        if tensors[name].shape != parameter.shape:
            raise CheckpointError(
                f"{origin}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                f"config.json asks for {tuple(parameter.shape)}"
            )
        if not tensors[name].is_floating_point():
            raise CheckpointError(
                f"{origin}: tensor {name} is of type {str(tensors[name].dtype).removeprefix('torch.')}; quantised "
                "weights are not supported, load the original model, or dequantise this one and save it"
            )
        state[name] = tensors[name].to(dtype)
    module.load_state_dict(state, assign=True)
    return set(state)


def _grow_vocabulary(source: Source, encoder: Encoder, tokenizer: ColBERTTokenizer, seed: int) -> None:
    """Add rows to the embedding matrix for new tokens: the mean of the old rows with a little seeded noise."""
    old, vocab_size = encoder.token_embeddings.weight.data, tokenizer.vocab_size
    if vocab_size <= len(old):
        return
    new_tokens = sorted(token for token, i in tokenizer.backend.get_vocab().items() if i >= len(old))
    if vocab_size > 2 * len(old) or vocab_size - len(old) > len(new_tokens):
        raise CheckpointError(
            f"{source.encoder}: the tokenizer has ids up to {vocab_size - 1}, but the embedding matrix has {len(old)} "
            "rows; the tokenizer's files are of another model, or damaged"
        )
    # An encoder alone has no embeddings of the prefixes yet; a trained model should have one of every token.
    level = logging.WARNING if source.has_projection else logging.INFO
    message = "%s has no embeddings of %d tokens, so untrained ones are added (seed %d); the first token is %r"
    logger.log(level, message, source.encoder, vocab_size - len(old), seed, new_tokens[0])
    noise = torch.randn(vocab_size - len(old), old.shape[1], generator=torch.Generator().manual_seed(seed))
    new = old.float().mean(0) + noise * old.float().std() * _NEW_ROW_NOISE
    encoder.token_embeddings.weight = nn.Parameter(torch.cat([old, new.to(old.dtype)]))
    encoder.token_embeddings.num_embeddings = vocab_size
    cast(Any, encoder).config = replace(encoder.config, vocab_size=vocab_size)


# -- projections -------------------------------------------------------------------------------------------------------


def _projection(dense: Dense, dtype: torch.dtype) -> Projection:
    path, config = dense.origin / FILES.config, dense.config
    known = ("in_features", "out_features", "bias", "activation_function", "use_residual")
    for key, kind in (("bias", bool), ("activation_function", str), ("use_residual", bool)):
        if key in config and not isinstance(config[key], kind):
            raise CheckpointError(f"{path}: {key} should be of type {kind.__name__}, found {config[key]!r:.80}")
    try:
        with without_memory():
            # sentence-transformers leaves `bias` out when it is true; PyLate always writes it.
            projection = Projection(**{"bias": True, **{key: config[key] for key in known if key in config}})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    _load_weights(projection, unwrapped(dense.tensors, dense.origin), dense.origin, dtype)
    return projection


def _stanford_projection(contents: Contents, dtype: torch.dtype) -> Projection:
    origin = contents.source.encoder
    tensors = unwrapped(contents.tensors, origin)
    if "linear.weight" not in tensors:
        raise CheckpointError(f"{origin} lacks tensor linear.weight, the projection of a Stanford ColBERT")
    if tensors["linear.weight"].dim() != len(("out", "in")):
        raise CheckpointError(f"{origin}: tensor linear.weight has shape {tuple(tensors['linear.weight'].shape)}")
    with without_memory():
        out_features, in_features = tensors["linear.weight"].shape
        projection = Projection(in_features, out_features)
    _load_weights(projection, tensors, origin, dtype)
    return projection


def _new_projection(source: Source, in_features: int, out_features: int, dtype: torch.dtype, seed: int) -> Projection:
    logger.warning(
        "%s %s: an untrained projection %d → %d (seed %d) is added; train the model before you search with it",
        source.encoder,
        "ends in another embedding_dim"
        if source.has_projection
        else "is no ColBERT, it has no projection to embeddings",
        in_features,
        out_features,
        seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Projection(in_features, out_features).to(dtype)


def _check_chain(source: Source, encoder: Encoder, projections: Iterable[Projection]) -> None:
    """Refuse a projection that takes another number of features than what comes before it gives."""
    size = encoder.config.hidden_size
    for number, projection in enumerate(projections, start=1):
        if projection.in_features != size:
            raise CheckpointError(
                f"{source.encoder}: projection {number} takes {projection.in_features} features, "
                f"what comes before it gives {size}"
            )
        size = projection.out_features
