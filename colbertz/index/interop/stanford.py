"""Stanford ColBERT's PLAID directories, read.

    centroids.pt, avg_residual.pt, buckets.pt (cutoffs and weights)             the codec
    0.codes.pt (int32), 0.residuals.pt (uint8), doclens.0.json, 1.codes.pt …    chunks of consecutive passages
    ivf.pid.pt                                                                  passages of each cell, and how many
    metadata.json                                                               {config: {nbits, …}, num_chunks, …}

Passages have numbers and no texts: those are in the file of their collection.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colbertz.document import Document
from colbertz.index.interop.foreign import check_doclens, make_codec, make_snapshot, read_doclens
from colbertz.index.store.detect import damaged, read_json
from colbertz.index.store.snapshot import Snapshot
from colbertz.untrusted import check_tensor_archive

_DTYPES = (torch.float16, torch.float32, torch.float64, torch.uint8, torch.int16, torch.int32, torch.int64)


def read(root: Path) -> Snapshot:
    """Open an index; see `colbertz.index.interop.open_foreign`. All of it is read into memory."""
    about = read_json(root / "metadata.json")
    try:
        nbits, num_chunks = int(about["config"]["nbits"]), int(about["num_chunks"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(root / "metadata.json", f"no usable {error}") from error
    cutoffs, weights = _pair(root / "buckets.pt")
    codec = make_codec(
        root,
        nbits,
        _array(root / "centroids.pt"),
        cutoffs,
        weights,
        _array(root / "avg_residual.pt"),
        float("nan"),  # Stanford's format has no threshold
    )
    chunks = range(num_chunks)
    doclens = np.concatenate([np.empty(0, np.int64), *(read_doclens(root / f"doclens.{i}.json") for i in chunks)])
    check_doclens(root, doclens)
    lists = root / "ivf.pid.pt"
    return make_snapshot(
        root,
        codec,
        doclens,
        _joined(root, [_array(root / f"{chunk}.codes.pt") for chunk in chunks]),
        _joined(root, [_array(root / f"{chunk}.residuals.pt") for chunk in chunks]),
        _pair(lists) if lists.is_file() else None,
        (Document(str(number)) for number in range(len(doclens))),
        {},
    )


def _joined(root: Path, parts: list[np.ndarray]) -> np.ndarray:
    if len({(part.dtype, part.ndim, part.shape[1:]) for part in parts}) > 1 or not parts[0].ndim:
        raise damaged(root, "its chunks have codes or residuals of different shapes")
    return np.concatenate(parts)


def _load(path: Path) -> Any:
    try:
        check_tensor_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose message advises to run the file's code
        raise damaged(path, "it holds something else than tensors, or no tensors") from None
    except Exception as error:  # of any kind: the file is a program for an unpickler
        raise damaged(path, error) from error


def _array(path: Path) -> np.ndarray:
    return _as_array(path, _load(path))


def _as_array(path: Path, content: Any) -> np.ndarray:
    if not isinstance(content, torch.Tensor):
        raise damaged(path, f"it holds a {type(content).__name__} where a tensor belongs")
    # A tensor may be a view that repeats a few stored numbers without end.
    on_cpu = content.device.type == "cpu" and content.layout == torch.strided
    if not on_cpu or content.dtype not in _DTYPES or not content.is_contiguous():
        raise damaged(path, f"it holds a tensor of {content.dtype} and {content.layout}, or not in the order of rows")
    array: np.ndarray = content.detach().numpy()
    return array


def _pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = _load(path)
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise damaged(path, "it does not hold two tensors")
    return _as_array(path, content[0]), _as_array(path, content[1])
