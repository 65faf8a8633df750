"""Makes the indexes in this folder with fast-plaid, which cannot run where the other tests run.

fast-plaid's library is compiled for one version of PyTorch: the last part of its own version, 2110, is PyTorch 2.11.0.
So this script runs by hand, in an environment that has just that, once for each version of fast-plaid:

    python3.11 -m venv fp && fp/bin/pip install torch==2.11.0 fast-plaid==1.7.0.2110 usearch
    fp/bin/python tests/index/interop/golden/make.py

    fp/bin/pip download --no-deps fast-plaid==1.4.6.2110 && unzip -d fp146 fast_plaid-1.4.6.2110-*.whl
    PYTHONPATH=fp146 fp/bin/python tests/index/interop/golden/make.py

fast-plaid draws its sample without a seed, so each run makes other files; expected.json belongs to those beside it.

Each version makes two indexes of 40 random documents:

    created    4 bits, with metadata, as `create` leaves it
    changed    2 bits; created of 30 documents, then 12 added with new centroids, then 2 deleted

Beside each: queries.npy (8, 6, 32) float32, and expected.json, the 10 best documents of each query as [number, score]
with every cell probed. Pickled files, and what belongs to them, are removed: colbertz does not read them, and
pickles have no place in a repository.
"""

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fast_plaid.search import FastPlaid

FOLDER = Path(__file__).parent
DIM = 32
PICKLED = ("embeddings.npy", "buffer.npy", "buffer_lengths.json", "buffer_info.json")


def clustered(lengths: list[int], seed: int, centres_seed: int = 99) -> list[torch.Tensor]:
    """Texts of unit vectors around 12 directions, as those of real tokens are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, DIM, generator=torch.Generator().manual_seed(centres_seed))
    chosen = torch.randint(12, (sum(lengths),), generator=generator)
    values = centres[chosen] + 0.7 * torch.randn(sum(lengths), DIM, generator=generator)
    return list(torch.nn.functional.normalize(values, dim=1).split(lengths))


def lengths_of(count: int, seed: int) -> list[int]:
    return torch.randint(1, 9, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def metadata_of(number: int) -> dict[str, Any]:
    return {"year": 1990 + number, "share": number / 8, "name": f"Näme {number}", "is": number % 2 == 0}


def created(root: Path) -> None:
    index = FastPlaid(str(root), device="cpu")
    documents = clustered(lengths_of(40, 1), 2)
    index.create(documents, nbits=4, metadata=[metadata_of(number) for number in range(40)])


def changed(root: Path) -> None:
    index = FastPlaid(str(root), device="cpu")
    index.create(clustered(lengths_of(30, 3), 4), nbits=2, start_from_scratch=0)
    # Around other directions, and more than the buffer takes: centroids are added.
    index.update(clustered(lengths_of(12, 5), 6, centres_seed=100), buffer_size=2, start_from_scratch=0)
    index.delete([3, 31])


def answer(root: Path) -> None:
    """Write down queries and answers, and remove what is pickled."""
    queries = torch.stack(clustered([6] * 4, 7) + clustered([6] * 4, 8, centres_seed=100))
    num_cells = len(np.load(root / "centroids.npy"))
    found = FastPlaid(str(root), device="cpu").search(queries, top_k=10, n_ivf_probe=num_cells, n_full_scores=4096)
    np.save(root / "queries.npy", queries.numpy())
    rows = [[[int(number), round(float(score), 5)] for number, score in hits] for hits in found]
    (root / "expected.json").write_text(json.dumps(rows, indent=1).replace("\n   ", " ") + "\n")
    for name in PICKLED:
        (root / name).unlink(missing_ok=True)


def main() -> None:
    torch.set_num_threads(1)
    version = importlib.metadata.version("fast_plaid").rpartition(".")[0]
    for make in (created, changed):
        root = FOLDER / f"fast-plaid-{version}-{make.__name__}"
        shutil.rmtree(root, ignore_errors=True)
        make(root)
        answer(root)
        print(root.name, sum(file.stat().st_size for file in root.iterdir()), "bytes")


if __name__ == "__main__":
    main()
