"""What an index records of the model that it is built with: where it is, what runs it, and the type it computes in."""

import os
from pathlib import Path
from typing import cast

from torch import nn

from colbertz.models.colbert import ColBERT
from colbertz.models.dtypes import dtype_name
from colbertz.models.encoders.int8 import is_quantised
from colbertz.models.onnx.runtime import MODELS

_EXPORTED_DTYPES = {"onnx": "float32", "onnx-int8": "int8"}


def backend_and_dtype(model: ColBERT) -> tuple[str, str]:
    """With what the model makes embeddings, such as ("torch", "bfloat16")."""
    if is_quantised(cast(nn.Module, model.encoder)):
        return "torch-int8", "int8"
    if model.exported is None:
        return "torch", dtype_name(model)
    file = model.exported.path.name
    return next((backend, _EXPORTED_DTYPES[backend]) for backend in MODELS if MODELS[backend] == file)


def location_beside(model: str | Path, index: Path) -> str:
    """How the index names its model: by a relative path if both are in one folder, which can then be moved."""
    folder, root = Path(model).expanduser().resolve(), index.expanduser().resolve()
    if not folder.is_dir():
        return str(model)
    if not folder.is_relative_to(root.parent):
        return str(folder)
    relative = os.path.relpath(folder, root)
    return relative if relative.startswith("..") else f"./{relative}"
