"""Running an exported ColBERT in onnxruntime: its files, and the encoder that runs them.

export.py writes the files, and next-plaid's exporter writes the same ones without our settings; both are read here.
onnxruntime is imported when it is needed (`pip install "colbertz[onnx]"`).

Legend: N tokens of the batch, B texts, L tokens of the longest, E embedding dim.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from colbertz.errors import UserError, require
from colbertz.models.backends import BACKENDS
from colbertz.models.checkpoint.hub import PACKAGED, resolve
from colbertz.models.checkpoint.json_files import check_file, is_there, read_json
from colbertz.models.checkpoint.layouts import FILES, CheckpointError
from colbertz.models.checkpoint.tokenizer_files import read_tokenizer
from colbertz.models.checks import check_on_cpu
from colbertz.models.dtypes import DType
from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer
from colbertz.ragged import Ragged

CONFIG = "onnx_config.json"
# The file of each backend.
MODELS = {"onnx": "model.onnx", "onnx-int8": "model_int8.onnx"}
# The key of our own settings in onnx_config.json.
SETTINGS_KEY = "colbertz"
# A batch is split into groups of texts in which padding adds at most an eighth of the shortest, or this many tokens.
_MAX_PADDING_TOKENS = 8
# onnxruntime logs errors (3) and worse, but no warnings.
_LOG_ERRORS = 3


def load(
    path_or_hub_id: str | Path,
    backend: str,
    device: torch.device | str | None = None,
    dtype: DType = None,
    embedding_dim: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> "tuple[OnnxEncoder, ColBERTTokenizer]":
    """The parts of a model that `export` wrote, or next-plaid's exporter.

    Args:
        path_or_hub_id: where the files are.
        backend: "onnx" or "onnx-int8".
        device, dtype, embedding_dim: must be those of the files, or None.
        overrides: fields of `ColBERTSettings` that replace those of the files.

    Raises:
        FileNotFoundError: if there is no such directory or repository.
        CheckpointError: if a file is missing or damaged.
        TypeError: if there is no such setting.
        UserError: if onnxruntime is not installed, the backend is unknown, a length is beyond the encoder's positions,
            or the files have another device, dtype or embedding_dim.
    """
    if backend not in MODELS:
        raise UserError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    check_on_cpu(backend, device)
    if dtype not in (None, "auto", torch.float32):
        raise UserError(f"an exported model has the dtype that it was written with, got {dtype}; leave dtype out")
    path, tokenizer = _read(path_or_hub_id, backend, overrides or {})
    encoder = OnnxEncoder(path)
    if embedding_dim not in (None, encoder.embedding_dim):
        raise UserError(
            f"embedding_dim is {embedding_dim}, but {encoder.path} has {encoder.embedding_dim}; "
            "load the model with backend torch and export it anew"
        )
    return encoder, tokenizer


def _read(path_or_hub_id: str | Path, backend: str, overrides: Mapping[str, Any]) -> tuple[Path, ColBERTTokenizer]:
    """The path of the ONNX file, and the tokenizer."""
    directory, is_local = resolve(path_or_hub_id), Path(path_or_hub_id).expanduser().is_dir()
    if not is_local and str(path_or_hub_id) not in PACKAGED:
        directory = _with_onnx_files(str(path_or_hub_id), directory, backend)
    path = directory / MODELS[backend]
    if not is_there(path) or not is_there(directory / CONFIG):
        missing = path if not is_there(path) else directory / CONFIG
        options = "--onnx" + " --int8" * (backend == "onnx-int8") + " --out DIR" * (not is_local)
        raise CheckpointError(f"{missing} is missing; write it with: colbertz export {path_or_hub_id} {options}")
    check_file(path)
    config = read_json(directory / CONFIG)
    tokenizer_backend = read_tokenizer(directory / FILES.tokenizer)
    try:
        settings, special_tokens, max_positions = _settings(config, tokenizer_backend)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{directory / CONFIG}: {error!r:.300}; export the model again") from error
    tokenizer = ColBERTTokenizer(tokenizer_backend, settings.overridden(overrides), special_tokens)
    tokenizer.settings.check_lengths(max_positions)
    return path, tokenizer


def _with_onnx_files(name: str, directory: Path, backend: str) -> Path:
    """The directory in which the ONNX files of the repository `name` are, downloaded if they are not in `directory`."""
    if is_there(directory / MODELS[backend]):
        return directory
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[MODELS[backend], CONFIG, FILES.tokenizer]))
    except (OSError, ValueError):
        return directory  # `_read` says what is missing


def _settings(config: dict[str, Any], backend: Tokenizer) -> tuple[ColBERTSettings, dict[str, str], int | None]:
    """Settings, special tokens and the most positions, from our section or else from next-plaid's keys."""
    names = {field.name for field in fields(ColBERTSettings)}
    if SETTINGS_KEY in config:
        ours = config[SETTINGS_KEY]
        known = {key: value for key, value in dict(ours["settings"]).items() if key in names}
        special_tokens, max_positions = ours["special_tokens"], ours["max_positions"]
        if not isinstance(special_tokens, dict) or not all(isinstance(token, str) for token in special_tokens.values()):
            raise ValueError(f"special_tokens must map roles to tokens, found {special_tokens!r:.80}")
        if max_positions is not None and type(max_positions) is not int:
            raise ValueError(f"max_positions must be an integer or null, found {max_positions!r:.80}")
        return ColBERTSettings(**known), special_tokens, max_positions
    known = {key: value for key, value in config.items() if key in names and value is not None}
    mask = backend.id_to_token(config["mask_token_id"])
    return ColBERTSettings(**known), {} if mask is None else {"mask_token": mask}, None


class OnnxEncoder(nn.Module):
    """Encoder, projections and normalisation in one onnxruntime session, in the place of `ColBERT.encoder`.

    Attributes:
        path: the ONNX file.
        session: onnxruntime's session; threads may share it.
        inputs: the names of the graph's inputs.
        embedding_dim: E.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, for as many threads as PyTorch has now.

        Raises:
            UserError: if onnxruntime is not installed.
            CheckpointError: if onnxruntime cannot read the file, or it is not one of a ColBERT.
        """
        super().__init__()
        onnxruntime: Any = require("onnxruntime", "onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _LOG_ERRORS
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common type
            raise CheckpointError(f"{path} cannot be read by onnxruntime ({error}); export the model again") from error
        self.path = path
        self.inputs = [part.name for part in self.session.get_inputs()]
        outputs = {part.name: part.shape for part in self.session.get_outputs()}
        if "output" not in outputs or not isinstance(outputs["output"][-1], int):
            raise CheckpointError(f"{path} has no result `output` (batch, length, dim); it has {outputs}")
        self.embedding_dim: int = outputs["output"][-1]

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxEncoder, (self.path,)  # a session cannot be pickled, the path of its file can

    def forward(self, ids: Ragged, attended: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        """Embed a batch.

        Args:
            ids: B texts of token ids, N in all.
            attended: (N,) bool, false for tokens that no token attends to; None for all.
            seeds: of dropout, which an exported model does not have.

        Returns:
            (N, E) float32 embeddings of unit length, row for row those of `ids.values`.
        """
        rows = ids.with_values(torch.arange(len(ids.values)))
        mask = torch.ones_like(ids.values) if attended is None else attended.to(torch.int64)
        embeddings = torch.empty(len(ids.values), self.embedding_dim)
        for texts in _groups_of_similar_length(ids.lengths):
            group = rows[texts]
            row, real = group.padded()  # (B, L) rows of `ids.values`, and which of them are no padding
            values = {
                "input_ids": ids.values[row],
                "attention_mask": mask[row] * real,
                "token_type_ids": torch.zeros_like(row),
            }
            feeds = {name: values[name].numpy() for name in self.inputs}
            [output] = self.session.run(["output"], feeds)
            embeddings[group.values] = torch.from_numpy(output)[real]
        return embeddings


def _groups_of_similar_length(lengths: Tensor) -> Iterator[Tensor]:
    """The positions of all texts that have tokens, in groups within which padding adds little."""
    order = lengths.argsort(stable=True)
    ordered = lengths[order].tolist()
    start = 0
    for end in range(len(ordered) + 1):
        if end == len(ordered) or ordered[end] > max(ordered[start] * 9 // 8, ordered[start] + _MAX_PADDING_TOKENS):
            if ordered[start:end] and ordered[end - 1]:
                yield order[start:end]
            start = end
