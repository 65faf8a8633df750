"""The kinds of files of the campaigns: how undamaged ones are made, and how they are used.

Directories of checkpoints have the layout of published models, and those of other programs' indexes that of their
programs. Nothing reads what `colbertz encode` writes.
"""

import functools
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import recompute_checksums, searched_by_lists
from embeddings import texts_in_cells
from foreign_indexes import as_stanford, merge
from published import bare_bert, colbert_zero, colbertv2, pickle_weights, shard
from stopped_builds import Stop, stop_at
from torch import nn
from trials import Format

from colbertz import ColBERT, Index, Ragged
from colbertz.corpus.documents import read_documents, read_queries, read_texts
from colbertz.errors import UserError
from colbertz.evaluation import layouts
from colbertz.evaluation.runs import read_run
from colbertz.files import sha256
from colbertz.index.interop.convert import convert
from colbertz.training import state
from colbertz.training.config.data import DataConfig, SourceConfig
from colbertz.training.config.files import read_yaml
from colbertz.training.data.sources import open_mixture
from colbertz.training.distributed import world

texts = functools.partial(texts_in_cells, num_cells=200)
QUERIES = texts(3, seed=2)
ADDED = texts(3, seed=3)


def described(count: int, name: str) -> dict[str, Any]:
    """Ids, texts and metadata of documents."""
    return {
        "ids": [f"{name}{i}" for i in range(count)],
        "texts": [None if i % 7 == 3 else f"red tower {name} number {i % 50}, 駅前の塔 {i}" for i in range(count)],
        "metadata": [
            {"year": 1900 + i % 90, "place": ["by the sea", None][i % 2], "of": {"a": i}} for i in range(count)
        ],
    }


def found(index: Index) -> Any:
    """Hits of all ways to search, with their texts and metadata."""
    results = [
        *searched_by_lists(index, QUERIES),
        *index.search(QUERIES[:1], 3),
        *index.search(QUERIES[:1], 5, exact=True),
        *(index.search(QUERIES[:1], 3, where="year > 1950") if "year" in index.fields else []),
        *index.search_text(["red tower 17", "駅前"], 4),
        *index.search_hybrid(QUERIES[:1], ["red number 3"], 4),
    ]
    return [[(hit.id, hit.score, hit.text, json.dumps(hit.metadata)) for hit in hits] for hits in results]


# -- indexes -----------------------------------------------------------------------------------------------------------


def _own(root: Path) -> None:
    index = Index.build(root, texts(1500, seed=1), **described(1500, "d"))
    index.add(texts(150, seed=4), **described(150, "e"))
    index.delete(["d0", "d7", "d1499", "e5"])


def _changed(root: Path) -> Any:
    index = Index.open(root)
    index.add(ADDED, **described(3, "added"))
    index.delete(["d8"])
    return len(index), found(index), [hit.id for hit in index.search(ADDED[:1], 1)[0]]


def _compacted(root: Path) -> Any:
    index = Index.open(root)
    index.compact()
    return len(index), found(index), index.ids()


def _stopped(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(1 + 2 * 8 + 1 + 4, patch)  # the beginning, each chunk twice, the codec, three coded chunks
        try:
            _build(root)
        except Stop:
            return
    raise AssertionError("the build was not stopped")


def _build(root: Path) -> Index:
    documents = texts(160, seed=5)

    def batches(first: int) -> Iterator[Ragged]:
        yield from (documents[i : min(i + 20, 160)] for i in range(first, 160, 20))

    return Index.build(root, batches, **described(160, "d"), chunk_tokens=280)


def _continued(root: Path) -> Any:
    index = _build(root)
    index.check()
    return found(index)


def _foreign(name: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        source = root.with_name(f"source of {name}")
        Index.build(source, texts(120, seed=6), **described(120, "d"))
        root.rmdir()
        if name == "stanford":
            as_stanford(source, root)
            return
        convert(source, root, name, chunk_documents=50)
        if name == "next-plaid":
            merge(root, mtimes=True)

    return make


def _converted(root: Path) -> Any:
    target = root.with_name("converted")
    convert(root, target, "colbertz")
    index = Index.open(target)
    index.check()
    return found(index)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def _checkpoint(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        root.rmdir()
        for step in steps:
            step(root)

    return make


def _embedded(root: Path) -> Any:
    model = ColBERT.from_pretrained(root, "cpu")
    embeddings = [model.encode_query(["red tower", ""]), model.encode_document(["A red tower by the sea.", "駅"])]
    assert all(bool(torch.isfinite(x.values).all()) for x in embeddings), "embeddings that are not finite"
    return [(x.values.tolist(), x.offsets.tolist()) for x in embeddings]


def _saved(root: Path) -> Any:
    ColBERT.from_pretrained(root, "cpu").save_pretrained(root)
    return _embedded(root)


# -- training ----------------------------------------------------------------------------------------------------------


def _trained() -> state.Trained:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.arange(600.0).reshape(20, 30))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(20, 30)
    optimizer.step()
    return state.Trained({"a": parameter}, optimizer, [torch.zeros(20, 30)])


def _run(root: Path) -> None:
    progress = state.Progress(step=3, window=[[1.0, 0.5, 2.0]], best=0.5, best_step=2, last=0.25, bad_rows=1)
    with world() as one:
        state.save(root, _trained(), progress, 2, one)


def _resumed(root: Path) -> Any:
    trained = _trained()
    with world() as one:
        progress = state.load(root, trained, one)
    assert progress.step or not list((root / "checkpoints").glob("step-00000003")), "the checkpoint was not seen"
    if not progress.step:
        raise UserError("there is no checkpoint")  # its folder's name is not damaged, but a trial may remove all
    return vars(progress), {name: tensor.tolist() for name, tensor in trained.tensors()}


def _seal_run(root: Path) -> None:
    for path in root.glob("checkpoints/*/state.json"):
        about = json.loads(path.read_text())
        about["sha256"] = sha256(path.with_name("tensors.safetensors"))
        del about["state_sha256"]  # as in checkpoints of earlier versions
        path.write_text(json.dumps(about))


def _settings(root: Path) -> None:
    content = "output: runs/x\nseed: 7\nmodel: {init: a/b, query_length: 32}\ndata:\n  train: [{path: a.jsonl}]\n"
    (root / "run.yaml").write_text(content + "optim:\n  lr: 1.0e-5\n# the end\n")


# -- corpora -----------------------------------------------------------------------------------------------------------


def _corpora(root: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"_id": f"d{i}", "title": "A tower", "text": f'The "{i}" tower, 駅\nby the sea', "year": 1900 + i}
        for i in range(40)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "a.jsonl").write_text(lines)
    (root / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        cells = [list(rows[0]), *([str(value).replace('"', '""') for value in row.values()] for row in rows)]
        (root / name).write_text("".join(delimiter.join(f'"{cell}"' for cell in line) + "\r\n" for line in cells))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "a.parquet")
    (root / "queries.tsv").write_text("".join(f"q{i}\twhere is tower {i}\n" for i in range(20)))
    (root / "texts.txt").write_text("one\ntwo\n\nthree\n")
    (root / "run.trec").write_text("".join(f"q{i} Q0 d{i} 1 {1 / (i + 1)} name\n" for i in range(20)))


def _read_corpora(root: Path) -> Any:
    names = ("a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "a.parquet")
    documents = [list(map(repr, read_documents(str(root / name)))) for name in names]
    queries, lines = list(map(repr, read_queries(str(root / "queries.tsv")))), list(read_texts(str(root / "texts.txt")))
    return documents, queries, lines, read_run(str(root / "run.trec"))


def _pairs(root: Path) -> None:
    rows = [{"query": f"tower {i}", "document": f"a tower, {i}", "negatives": ["x", f"y {i}"]} for i in range(30)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "pairs.csv").write_text("query,document\n" + "".join(f'"tower, {i}",answer {i}\n' for i in range(30)))
    (root / "pairs.tsv").write_text("query\tdocument\n" + "".join(f"tower {i}\tanswer {i}\n" for i in range(30)))


def _read_pairs(root: Path) -> Any:
    sources = [SourceConfig(str(root / name)) for name in ("pairs.jsonl", "pairs.csv", "pairs.tsv")]
    opened = open_mixture(DataConfig(train=sources))
    return [[repr(source[i]) for i in range(len(source))] for source in opened]


def _collection(root: Path) -> None:
    (root / "qrels").mkdir()
    (root / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": f"tower {i}"}) + "\n" for i in range(30))
    )
    (root / "queries.jsonl").write_text("".join(json.dumps({"_id": f"q{i}", "text": f"{i}?"}) + "\n" for i in range(9)))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(9))
    (root / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


def _read_collection(root: Path) -> Any:
    return [repr(vars(part)) for part in layouts.read(root, "test")]


def _searched(root: Path) -> Any:
    return found(Index.open(root))


def _num_documents(root: Path) -> Any:
    return len(Index.open(root))


def _check(root: Path) -> None:
    Index.open(root).check()


FORMATS: dict[str, Format] = {
    "index": Format(_own, _searched, check=_check, seal=recompute_checksums, change=_changed),
    "compact": Format(_own, _num_documents, check=_check, seal=recompute_checksums, change=_compacted),
    "build": Format(
        _stopped,
        _continued,
        is_kept=lambda path: "build" not in path.parts,
        has_checksums=True,
        changes_nothing=False,
        has_notes=False,
    ),
    **{name: Format(_foreign(name), _searched, change=_converted) for name in ("fast-plaid", "next-plaid", "stanford")},
    "PyLate checkpoint": Format(_checkpoint(colbert_zero), _embedded, change=_saved),
    "sharded checkpoint": Format(_checkpoint(colbert_zero, shard), _embedded),
    "pickled checkpoint": Format(_checkpoint(bare_bert, pickle_weights), _embedded),
    "Stanford checkpoint": Format(_checkpoint(colbertv2), _embedded, change=_saved),
    "bare checkpoint": Format(_checkpoint(bare_bert), _embedded),
    "training state": Format(_run, _resumed, has_checksums=True, seal=_seal_run),
    "training settings": Format(_settings, lambda root: repr(read_yaml(root / "run.yaml"))),
    "training pairs": Format(_pairs, _read_pairs),
    "corpora": Format(_corpora, _read_corpora),
    "collection": Format(_collection, _read_collection),
}
