"""Files of other programs' indexes that colbertz does not write itself."""

import json
from pathlib import Path

import numpy as np
import torch

from colbertz.index.store.snapshot import open_snapshot


def merge(root: Path, mtimes: bool, nested: bool = False, padding: int = 4) -> None:
    """Write merged files and manifests as fast-plaid or next-plaid do."""
    for name in ("codes", "residuals"):
        chunks = sorted(root.glob(f"?.{name}.npy"))
        whole = np.concatenate([np.load(chunk) for chunk in chunks])
        np.save(root / f"merged_{name}.npy", np.concatenate([whole, np.zeros_like(whole[:padding])]))
        entries = {
            chunk.name: {
                "rows": len(np.load(chunk)),
                "mtime": chunk.stat().st_mtime if mtimes else None,
                "merged": True,
            }
            for chunk in chunks
        }
        manifest = {"chunks": entries, "padding_rows": padding} if nested else entries
        (root / f"merged_{name}.manifest.json").write_text(json.dumps(manifest))


def as_stanford(source: Path, root: Path) -> Path:
    """Stanford ColBERT cannot be installed here, so its directory is written by hand, in two chunks."""
    snapshot = open_snapshot(source)
    codec, segment = snapshot.codec, snapshot.segments[0]
    root.mkdir()
    torch.save(codec.centroids.half(), root / "centroids.pt")
    torch.save(codec.avg_residual.half(), root / "avg_residual.pt")
    torch.save((codec.quantiser.cutoffs, codec.quantiser.weights), root / "buckets.pt")
    lengths = torch.from_numpy(np.diff(segment.arrays.ivf_offsets))
    torch.save((torch.from_numpy(segment.arrays.ivf.copy()), lengths.int()), root / "ivf.pid.pt")
    doclens = np.diff(segment.arrays.offsets).tolist()
    for chunk, (first, last) in enumerate([(0, 5), (5, len(doclens))]):
        begin, end = segment.arrays.offsets[first], segment.arrays.offsets[last]
        torch.save(torch.from_numpy(segment.arrays.codes[begin:end].astype(np.int32)), root / f"{chunk}.codes.pt")
        torch.save(torch.from_numpy(segment.arrays.residuals[begin:end].copy()), root / f"{chunk}.residuals.pt")
        (root / f"doclens.{chunk}.json").write_text(json.dumps(doclens[first:last]))
    about = {
        "config": {"nbits": codec.quantiser.nbits, "dim": codec.embedding_dim},
        "num_chunks": 2,
        "num_embeddings": sum(doclens),
    }
    (root / "metadata.json").write_text(json.dumps(about))
    return root
