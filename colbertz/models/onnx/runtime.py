"""ONNX files of a ColBERT, in next-plaid's layout, and the encoder that runs them in onnxruntime.

`model.onnx`, `model_int8.onnx`, `tokenizer.json` and `onnx_config.json` are what next-plaid's server reads. Our own
settings, which say more than its configuration can, stand in `onnx_config.json` beside its keys, so that the four files
alone are a model here too. onnxruntime and onnx are imported when they are needed (`pip install "colbertz[onnx]"`).

Legend: N tokens of the batch, B texts, L tokens of the longest, E embedding dim.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from colbertz.errors import UserError, require
from colbertz.files import replaced_directory
from colbertz.models.checkpoint.assemble import check_lengths, override, read_tokenizer, resolve
from colbertz.models.checkpoint.read import FILES, CheckpointError, read_json
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer
from colbertz.ragged import Ragged

if TYPE_CHECKING:
    from colbertz.models.colbert import ColBERT

logger = logging.getLogger(__name__)

CONFIG = "onnx_config.json"
MODELS = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx"}
_OWN = "colbertz"  # the key of our settings in onnx_config.json


# -- writing -----------------------------------------------------------------------------------------------------------


def export(model: "ColBERT", directory: str | Path, *, int8: bool = False, name: str | None = None) -> list[Path]:
    """Write a model's ONNX files into `directory`, all or none of them; other files there stay.

    Args:
        model: what to export.
        directory: a new one, or one that has other files, such as the model's own checkpoint.
        int8: also write `model_int8.onnx`. One that is there already is always written anew, lest it stay behind.
        name: the model's name, for people.

    Returns:
        The files written.

    Raises:
        ValueError: if onnx is not installed, the model has an activation without a counterpart in ONNX or
            more than 2 GB of weights.
    """
    require("onnx", "onnx")
    if model.exported:
        raise UserError(f"{model.exported.path} is exported already; load the model with backend torch to export it")
    from colbertz.models.onnx.graph import build

    directory = Path(directory)
    files = [MODELS["onnx"], FILES.tokenizer, CONFIG]
    if int8 or (directory / MODELS["onnx-int8"]).exists():
        files.insert(1, MODELS["onnx-int8"])
    with replaced_directory(directory) as out:
        for file in files[:-2]:
            (out / file).write_bytes(build(model, int8=file == MODELS["onnx-int8"]).SerializeToString())
        model.tokenizer.backend.save(str(out / FILES.tokenizer))
        content = json.dumps(_config(model, name), indent=2, ensure_ascii=False)
        (out / CONFIG).write_text(content + "\n", encoding="utf-8")
    return [directory / file for file in files]


def _config(model: "ColBERT", name: str | None) -> dict[str, Any]:
    """next-plaid's keys as its runner understands them, and ours."""
    tokenizer, settings = model.tokenizer, model.settings
    backend = tokenizer.backend
    expansion = settings.do_query_expansion
    if expansion and not settings.attend_to_expansion_tokens:
        # Its runner lets all tokens attend to the filler, which this model was not trained for; its own exporter leaves
        # the expansion out too.
        logger.info("%s: do_query_expansion is false for next-plaid, which has no unattended query expansion", CONFIG)
        expansion = False
    pad = backend.token_to_id(tokenizer.special_tokens.get("pad_token", ""))
    theirs = {
        "model_type": "ColBERT",
        "model_name": name,
        "model_class": model.encoder.config.architecture,
        "uses_token_type_ids": False,
        "query_prefix": settings.query_prefix,
        "document_prefix": settings.document_prefix,
        "query_length": settings.query_length,
        "document_length": settings.document_length,
        "do_query_expansion": expansion,
        "attend_to_expansion_tokens": settings.attend_to_expansion_tokens,
        # The tokens themselves: a word that is no token is left out there, and stands for [UNK] here.
        "skiplist_words": [backend.id_to_token(i) for i in tokenizer.skiplist.tolist()],
        "embedding_dim": model.embedding_dim,
        "mask_token_id": tokenizer.expansion_id or 0,
        "pad_token_id": pad or 0,
        "query_prefix_id": backend.token_to_id(settings.query_prefix),
        "document_prefix_id": backend.token_to_id(settings.document_prefix),
        "do_lower_case": settings.do_lower_case,
    }
    ours = {
        "format": 1,
        "settings": asdict(settings),
        "special_tokens": tokenizer.special_tokens,
        "max_positions": model.encoder.max_positions,
    }
    return {**theirs, _OWN: ours}


# -- reading -----------------------------------------------------------------------------------------------------------


def load(path_or_hub_id: str | Path, backend: str, overrides: dict[str, Any]) -> "tuple[OnnxEncoder, ColBERTTokenizer]":
    """The parts of a model that `export` wrote, or next-plaid's exporter.

    Args:
        path_or_hub_id: where the files are.
        backend: "onnx" or "onnx-int8".
        overrides: fields of `ColBERTSettings` that replace those of the files.

    Raises:
        FileNotFoundError: if there is no such directory or repository.
        CheckpointError: if a file is missing or damaged.
        TypeError: if there is no such setting.
        ValueError: if onnxruntime is not installed, or a length is beyond the encoder's positions.
    """
    directory, local = resolve(path_or_hub_id), Path(path_or_hub_id).expanduser().is_dir()
    if not local:
        directory = _with_onnx_files(str(path_or_hub_id), directory, backend)
    path = directory / MODELS[backend]
    if not path.is_file() or not (directory / CONFIG).is_file():
        missing = path if not path.is_file() else directory / CONFIG
        options = "--onnx" + " --int8" * (backend == "onnx-int8") + " --out DIR" * (not local)
        raise CheckpointError(f"{missing} is missing; write it with: colbertz export {path_or_hub_id} {options}")
    config = read_json(directory / CONFIG)
    tokenizer_backend = read_tokenizer(directory / FILES.tokenizer)
    try:
        settings, special, longest = _settings(config, tokenizer_backend)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory / CONFIG}: {error!r}; export the model again") from error
    tokenizer = ColBERTTokenizer(tokenizer_backend, override(settings, overrides), special)
    check_lengths(longest, tokenizer.settings)
    return OnnxEncoder(path), tokenizer


def _with_onnx_files(name: str, directory: Path, backend: str) -> Path:
    """`directory`, in the hub's cache or not, with the ONNX files that the repository `name` has."""
    if (directory / MODELS[backend]).is_file():
        return directory
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[MODELS[backend], CONFIG, FILES.tokenizer]))
    except (OSError, ValueError):
        return directory  # `load` says what is missing


def _settings(config: dict[str, Any], backend: Tokenizer) -> tuple[ColBERTSettings, dict[str, str], int | None]:
    """Settings, special tokens and the most positions, of our section or else of next-plaid's keys."""
    names = {field.name for field in fields(ColBERTSettings)}
    if _OWN in config:
        own = config[_OWN]
        known = {key: value for key, value in own["settings"].items() if key in names}
        return ColBERTSettings(**known), own["special_tokens"], own["max_positions"]
    known = {key: value for key, value in config.items() if key in names and value is not None}
    mask = backend.id_to_token(config["mask_token_id"])
    return ColBERTSettings(**known), {} if mask is None else {"mask_token": mask}, None


class OnnxEncoder(nn.Module):
    """Encoder, projections and normalisation in one onnxruntime session, in the place of `ColBERT.encoder`.

    Attributes:
        path: the ONNX file.
        embedding_dim: E.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, for as many threads as PyTorch has now.

        Raises:
            ValueError: if onnxruntime is not installed.
            CheckpointError: if onnxruntime cannot read the file, or it is not one of a ColBERT.
        """
        super().__init__()
        onnxruntime: Any = require("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common type
            raise CheckpointError(f"{path} cannot be read by onnxruntime ({error}); export the model again") from error
        self.path = path
        self.names = [part.name for part in self.session.get_inputs()]
        outputs = {part.name: part.shape for part in self.session.get_outputs()}
        if "output" not in outputs or not isinstance(outputs["output"][-1], int):
            raise CheckpointError(f"{path} has no result `output` (batch, length, dim); it has {outputs}")
        self.embedding_dim: int = outputs["output"][-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxEncoder, (self.path,)  # a session cannot travel to another process, its file can

    def forward(self, ids: Ragged, attended: Tensor | None = None) -> Tensor:
        """Embed a batch.

        Args:
            ids: B texts of token ids, N in all.
            attended: (N,) bool, false for tokens that no token attends to; None for all.

        Returns:
            (N, E) float32 embeddings of unit length, row for row those of `ids.values`.
        """
        lengths = ids.lengths
        rows = ids.with_values(torch.arange(len(ids.values)))
        mask = torch.ones_like(ids.values) if attended is None else attended.to(torch.int64)
        out = torch.empty(len(ids.values), self.embedding_dim)
        for texts in _of_similar_length(lengths):
            chosen = rows[texts]
            place, real = chosen.padded()
            inputs = {
                "input_ids": ids.values[place],
                "attention_mask": mask[place] * real,
                "token_type_ids": torch.zeros_like(place),
            }
            feeds = {name: inputs[name].numpy() for name in self.names}
            [padded] = self.session.run(["output"], feeds)
            out[chosen.values] = torch.from_numpy(padded)[real]
        return out


def _of_similar_length(lengths: Tensor) -> Iterator[Tensor]:
    """The numbers of all texts that have tokens, in groups within which padding adds an eighth at most, or 8 tokens."""
    order = lengths.argsort(stable=True)
    sizes = lengths[order].tolist()
    start = 0
    for end in range(len(sizes) + 1):
        if end == len(sizes) or sizes[end] > max(sizes[start] * 9 // 8, sizes[start] + 8):
            if sizes[start:end] and sizes[end - 1]:
                yield order[start:end]
            start = end
