"""Checkpoint directories to models and back. `ColBERT.from_pretrained` and `save_pretrained` are these functions."""

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as serialized
from tokenizers import Tokenizer
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.files import replaced_directory
from colbertz.models.checkpoint.layouts import Source, find_source
from colbertz.models.checkpoint.read import FILES, CheckpointError, load_weights, read_json, read_tensors
from colbertz.models.encoders.bert import Bert, BertConfig
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.models.projection import Projection
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer

if TYPE_CHECKING:
    from colbertz.models.colbert import ColBERT

logger = logging.getLogger(__name__)

Encoder = ModernBert | Bert
ENCODERS: dict[str, tuple[Any, Any]] = {"modernbert": (ModernBertConfig, ModernBert), "bert": (BertConfig, Bert)}
# Parts of whole models that sit on an encoder and that a ColBERT has no use for.
_HEADS = ("head.", "decoder.", "cls.", "pooler.", "classifier.", "linear.", "embeddings.position_ids", "lm_head.")
# The model that comes with the package, by the name it would have on the hub, and where it lies.
PACKAGED = "colbertz/nano"
_PACKAGED_AT = Path(__file__).parents[1] / "packaged" / "nano"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.bin", FILES.stanford]


def resolve(path_or_hub_id: str | Path) -> Path:
    """A local directory as it is; anything of the form `owner/name` through the Hugging Face hub and its cache.

    `colbertz/nano` is the model that comes with the package.

    Raises:
        FileNotFoundError: if there is neither such a directory nor such a repository.
    """
    if str(path_or_hub_id) == PACKAGED:
        return _PACKAGED_AT
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_hub_id)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"{name} is no directory; give a checkpoint directory or a hub id such as lightonai/ColBERT-Zero"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{name} is neither a directory nor to be had from the Hugging Face hub ({reason})"
        ) from error


def load(
    path_or_hub_id: str | Path, dtype: torch.dtype, embedding_dim: int | None, seed: int, overrides: dict[str, Any]
) -> tuple[Encoder, list[Projection], ColBERTTokenizer]:
    """Read the parts of a ColBERT. See `ColBERT.from_pretrained`."""
    source = find_source(resolve(path_or_hub_id))
    tensors = read_tensors(source.encoder)
    encoder = _load_encoder(source, tensors, dtype)
    projections = [_load_projection(path, dtype) for path in source.projections]
    if source.stanford:
        projections = [_stanford_projection(source, tensors, dtype)]
    last = projections[-1].out_features if projections else None
    if last is None or (embedding_dim is not None and embedding_dim != last):
        projections.append(_new_projection(last or encoder.config.hidden_size, embedding_dim or 128, dtype, seed))
    _check_chain(source, encoder, projections)
    settings = override(source.settings, overrides)
    backend, special = _load_tokenizer(source.encoder)
    if not source.unknown_words_skip:
        known = tuple(word for word in settings.skiplist_words if backend.token_to_id(word) is not None)
        settings = replace(settings, skiplist_words=known)
    tokenizer = ColBERTTokenizer(backend, settings, special)
    check_lengths(encoder.max_positions, settings)
    grow_vocabulary(encoder, tokenizer.vocab_size, seed)
    return encoder, projections, tokenizer


def override(settings: ColBERTSettings, overrides: dict[str, Any]) -> ColBERTSettings:
    """The settings with some of them replaced by `from_pretrained`'s; raises TypeError if there is no such setting."""
    names = [field.name for field in fields(ColBERTSettings)]
    for key in overrides:
        if key not in names:
            raise TypeError(f"from_pretrained has no setting {key!r}; it has embedding_dim, seed, {', '.join(names)}")
    return replace(settings, **overrides)


def _encoder_name(name: str) -> str:
    """The name of a tensor in the encoder alone: whole models put "model." or "bert." before it.

    BERT's first checkpoints called a LayerNorm's weight and bias gamma and beta, and transformers 5 writes that again.
    """
    for prefix in ("model.", "bert."):
        name = name.removeprefix(prefix)
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _load_encoder(source: Source, tensors: dict[str, Tensor], dtype: torch.dtype) -> Encoder:
    kind = source.config.get("model_type")
    if not isinstance(kind, str) or kind not in ENCODERS:
        raise CheckpointError(
            f"{source.encoder / FILES.config}: model_type {kind!r} is not supported, only {' and '.join(ENCODERS)}"
        )
    config_type, encoder_type = ENCODERS[kind]
    try:
        config = config_type.from_dict(source.config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source.encoder / FILES.config}: {error}") from error
    with torch.device("meta"):
        encoder = encoder_type(config)
    bare = {_encoder_name(name): tensor for name, tensor in tensors.items()}
    load_weights(encoder, bare, source.encoder, dtype)
    unused = sorted(n for n in set(bare) - set(encoder.state_dict()) if not n.startswith(_HEADS))
    if unused:
        logger.warning("%s: %d tensors are not used, the first is %s", source.encoder, len(unused), unused[0])
    return encoder.eval()


def _load_projection(path: Path, dtype: torch.dtype) -> Projection:
    config = read_json(path / FILES.config)
    known = ("in_features", "out_features", "bias", "activation_function", "use_residual")
    for key in known[:2]:
        if not isinstance(config.get(key), int):
            raise CheckpointError(f"{path / FILES.config}: {key} should be an integer, found {config.get(key)!r}")
    try:
        with torch.device("meta"):
            # sentence-transformers leaves `bias` out when it is true; PyLate always writes it.
            projection = Projection(**{"bias": True, **{key: config[key] for key in known if key in config}})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path / FILES.config}: {error}") from error
    load_weights(projection, read_tensors(path), path, dtype)
    return projection


def _stanford_projection(source: Source, tensors: dict[str, Tensor], dtype: torch.dtype) -> Projection:
    if "linear.weight" not in tensors:
        raise CheckpointError(f"{source.encoder} lacks tensor linear.weight, the projection of a Stanford ColBERT")
    with torch.device("meta"):
        out_features, in_features = tensors["linear.weight"].shape
        projection = Projection(in_features, out_features)
    load_weights(projection, tensors, source.encoder, dtype)
    return projection


def _new_projection(in_features: int, out_features: int, dtype: torch.dtype, seed: int) -> Projection:
    logger.info("adding an untrained projection %d → %d (seed %d)", in_features, out_features, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Projection(in_features, out_features).to(dtype)


def _check_chain(source: Source, encoder: Encoder, projections: Iterable[Projection]) -> None:
    size = encoder.config.hidden_size
    for number, projection in enumerate(projections, start=1):
        if projection.in_features != size:
            raise CheckpointError(
                f"{source.encoder}: projection {number} takes {projection.in_features} features, "
                f"what comes before it gives {size}"
            )
        size = projection.out_features


def _load_tokenizer(directory: Path) -> tuple[Tokenizer, dict[str, str]]:
    path = directory / FILES.tokenizer
    config_path, special_path = directory / FILES.tokenizer_config, directory / FILES.special_tokens
    config = read_json(config_path) if config_path.is_file() else {}
    special: dict[str, str] = {}
    for source in (read_json(special_path) if special_path.is_file() else {}, config):
        for role, token in source.items():
            text = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(text, str):
                special[role] = text
    if path.is_file():
        backend = read_tokenizer(path)
    elif (directory / FILES.vocabulary).is_file():
        from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

        lowercase = config.get("do_lower_case", True)
        backend = Tokenizer.from_str(
            BertWordPieceTokenizer(str(directory / FILES.vocabulary), lowercase=lowercase).to_str()
        )
        special = {"mask_token": "[MASK]", "unk_token": "[UNK]", "pad_token": "[PAD]"} | special
    else:
        raise CheckpointError(
            f"{directory} has no {FILES.tokenizer} (nor a {FILES.vocabulary}); add the tokenizer's files"
        )
    return backend, special


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json; raises CheckpointError if it cannot be read."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the only type that the tokenizers library raises
        raise CheckpointError(f"{path} cannot be read by the tokenizers library ({error})") from error


def check_lengths(max_positions: int | None, settings: ColBERTSettings) -> None:
    """Raises ValueError if a text could be longer than the encoder's positions; None: it has no end of them."""
    for side in ("query", "document"):
        length = getattr(settings, f"{side}_length")
        if max_positions is not None and length > max_positions:
            raise UserError(f"{side}_length is {length}, this encoder has positions for {max_positions} tokens")


def grow_vocabulary(encoder: Encoder, vocab_size: int, seed: int) -> None:
    """Add rows to the embedding matrix for new tokens: the mean of the old rows with a little seeded noise."""
    old = encoder.token_embeddings.weight.data
    if vocab_size <= len(old):
        return
    logger.info("adding %d rows to the token embeddings (seed %d)", vocab_size - len(old), seed)
    noise = torch.randn(vocab_size - len(old), old.shape[1], generator=torch.Generator().manual_seed(seed))
    fresh = old.float().mean(0) + noise * old.float().std() * 0.1
    encoder.token_embeddings.weight = nn.Parameter(torch.cat([old, fresh.to(old.dtype)]))
    encoder.token_embeddings.num_embeddings = vocab_size
    encoder.config = replace(encoder.config, vocab_size=vocab_size)


def save(model: "ColBERT", directory: str | Path) -> None:
    """Write PyLate's layout. See `ColBERT.save_pretrained`."""
    from colbertz import __version__

    dtype = model.encoder.token_embeddings.weight.dtype
    settings, tokenizer = asdict(model.settings), model.tokenizer
    lower_case = settings.pop("do_lower_case")
    settings["skiplist_words"] = list(settings["skiplist_words"])
    longest = max(model.settings.query_length, model.settings.document_length)
    modules = [("", "sentence_transformers.models.Transformer")]
    modules += [(f"{i}_Dense", "pylate.models.Dense.Dense") for i in range(1, len(model.projections) + 1)]
    with replaced_directory(Path(directory)) as out:
        _write_json(out / FILES.config, {**model.encoder.config.to_dict(), "dtype": str(dtype).removeprefix("torch.")})
        _write_tensors(out / FILES.weights, model.encoder)
        for (name, _), projection in zip(modules[1:], model.projections):
            assert isinstance(projection, Projection)
            (out / name).mkdir()
            _write_json(out / name / FILES.config, projection.to_dict())
            _write_tensors(out / name / FILES.weights, projection)
        tokenizer.backend.save(str(out / FILES.tokenizer))
        special = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": longest,
            **tokenizer.special_tokens,
        }
        _write_json(out / FILES.tokenizer_config, special)
        _write_json(out / FILES.special_tokens, tokenizer.special_tokens)
        _write_json(out / FILES.transformer, {"max_seq_length": longest, "do_lower_case": lower_case})
        entries = [{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(modules)]
        _write_json(out / FILES.modules, entries)
        about = {"model_type": "ColBERT", "__version__": {"colbertz": __version__, "pytorch": torch.__version__}}
        _write_json(out / FILES.settings, {**about, **settings, "similarity_fn_name": "MaxSim"})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tensors(path: Path, module: nn.Module) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    # Not save_file, whose files nobody but their owner may read.
    path.write_bytes(serialized(tensors, metadata={"format": "pt"}))
