"""The layouts in which test collections are distributed, told apart by their files."""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

from colbertz.corpus import parquet
from colbertz.corpus.documents import read_documents, read_ids_and_texts
from colbertz.corpus.formats import find_file, read_rows
from colbertz.corpus.lines import plain_or_gz
from colbertz.corpus.rows import Row, Unique
from colbertz.errors import UserError, check_path, check_type
from colbertz.evaluation.collections import Collection, from_judgements
from colbertz.evaluation.runs import add_judgement, read_qrels

# Queries and judgements of the TREC Deep Learning tracks, by the usual short names of the tracks.
_TRACKS = {
    "dl19": ("msmarco-test2019-queries.tsv", "2019qrels-pass.txt"),
    "dl20": ("msmarco-test2020-queries.tsv", "2020qrels-pass.txt"),
}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")


def read(directory: str | Path, split: str | None) -> list[Collection]:
    """Read a directory in BEIR's layout, or in that of MS MARCO, LongEmbed or NanoBEIR.

    Args:
        directory: as `read_beir`, `read_msmarco`, `read_longembed` or `read_nanobeir` reads it.
        split: as there; None for test in BEIR's layout.

    Returns:
        One collection; only `read_longembed` may give more.

    Raises:
        FileNotFoundError, UserError: as these.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"there is no directory {directory}; give one, or a name such as beir:scifact, nanobeir:msmarco or "
            "longembed:qmsum"
        )
    if plain_or_gz(directory / "collection.tsv"):
        return [read_msmarco(directory, split or "dev.small")]
    if plain_or_gz(directory / "qrels.jsonl"):
        return read_longembed(directory, split)
    if any((directory / "corpus").glob("*.parquet")):
        return [read_nanobeir(directory, split)]
    return [read_beir(directory, split or "test")]


def read_beir(
    directory: str | Path, split: str, *, qrels: str | Path | None = None, name: str | None = None
) -> Collection:
    """Read BEIR's layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each perhaps .gz.

    Corpus and queries may also be in another format of `colbertz.corpus`, with the columns `_id` and `text`.

    Args:
        directory: where corpus and queries are.
        split: which judgements.
        qrels: the directory of the judgements; None for `directory`/qrels.
        name: what to call the collection; None for the directory's name.

    Raises:
        FileNotFoundError: if a file is missing, naming the splits that there are.
        UserError: for a row that cannot be read, or as `read_qrels` and `from_judgements`.
    """
    check_path("directory", directory)
    check_type("split", split, str, "a string")
    check_type("name", name, (str, NoneType), "a string or None")
    if qrels is not None:
        check_path("qrels", qrels)
    directory = Path(directory)
    name = name or directory.name
    files = []
    for part in ("corpus", "queries"):
        path = find_file(directory, part)
        if path is None:
            raise FileNotFoundError(
                f"{directory} has no {part}.jsonl or {part}.jsonl.gz; is it a directory in BEIR's layout?"
            )
        files.append(str(path))

    def corpus() -> Iterator[tuple[str, str, str]]:
        return ((document.id, document.text or "", document.where or "") for document in read_documents(files[0]))

    folder = Path(qrels or directory / "qrels")
    path = plain_or_gz(folder / f"{split}.tsv")
    if path is None:
        splits = {file.name.removesuffix(".gz").removesuffix(".tsv") for file in folder.glob("*.tsv*")}
        known = ", ".join(sorted(splits)) or "none"
        raise FileNotFoundError(f"there is no {folder / split}.tsv; the splits of {name} are: {known}")
    return from_judgements(name, corpus, _ids_texts_places(files[1]), read_qrels(path), path)


def read_msmarco(directory: Path, split: str) -> Collection:
    """Read MS MARCO's passages as they are distributed, each file perhaps .gz.

    Args:
        directory: holds collection.tsv, and queries and judgements: queries.<split>.tsv and qrels.<split>.tsv,
            or those of TREC's tracks (msmarco-test2019-queries.tsv and 2019qrels-pass.txt).
        split: dev.small, dev, train, dl19 or dl20.

    Raises:
        FileNotFoundError: if a file is missing.
        UserError: for a line that cannot be read, or as `read_qrels` and `from_judgements`.
    """
    names = ("collection.tsv", *_TRACKS.get(split, (f"queries.{split}.tsv", f"qrels.{split}.tsv")))
    paths = [plain_or_gz(directory / name) for name in names]
    collection, queries, qrels = paths
    if collection is None or queries is None or qrels is None:
        missing = next(name for name, path in zip(names, paths) if path is None)
        raise FileNotFoundError(
            f"{directory} has no {missing}, which the split {split!r} needs; the splits of MS MARCO are: "
            f"dev.small, dev, train, {', '.join(_TRACKS)}"
        )
    # Passages have the form of queries: an id, a tab and a text on each line.
    return from_judgements(
        f"{directory.name}, {split}",
        partial(_ids_texts_places, str(collection)),
        _ids_texts_places(str(queries)),
        read_qrels(qrels),
        qrels,
    )


def read_longembed(directory: Path, split: str | None) -> list[Collection]:
    """Read a set of LongEmbed: corpus.jsonl (doc_id, text), queries.jsonl (qid, text) and qrels.jsonl (qid, doc_id).

    Its synthetic sets, needle and passkey, have a `context_length` in each row, and a query is searched among the
    documents of its own length.

    Args:
        directory: holds the files, each perhaps .gz.
        split: a context length; None for all.

    Returns:
        A collection for each context length. Where there are several, their query ids begin with the length and a
        slash, so that all of them can be in one run.

    Raises:
        FileNotFoundError: if a file or the split is missing.
        UserError: for a row that cannot be read, or as `from_judgements`.
    """
    files = {}
    for part in ("corpus", "queries", "qrels"):
        path = plain_or_gz(directory / f"{part}.jsonl")
        if path is None:
            raise FileNotFoundError(f"{directory} has no {part}.jsonl; LongEmbed has it beside the others")
        files[part] = list(read_rows(str(path)))
    lengths = sorted({row.values["context_length"] for row in files["qrels"] if "context_length" in row.values})
    if split is not None and split not in map(str, lengths):
        known = ", ".join(map(str, lengths)) or "none, it is one collection"
        raise FileNotFoundError(f"{directory.name} has no split {split!r}; its splits are: {known}")
    chosen = [length for length in lengths if split in (None, str(length))] or [None]
    collections = []
    for length in chosen:
        rows = {part: _of_length(files[part], length) for part in files}
        prefix = f"{length}/" if len(chosen) > 1 else ""
        queries = ((prefix + query_id, text, where) for query_id, text, where in _pairs(rows["queries"], "qid", "text"))
        qrels: dict[str, dict[str, float]] = {}
        judged = Unique()
        for query_id, doc_id, where in _pairs(rows["qrels"], "qid", "doc_id"):
            add_judgement(qrels, judged, prefix + query_id, doc_id, 1.0, where)
        name = directory.name if length is None else f"{directory.name}-{length}"
        corpus = partial(_pairs, rows["corpus"], "doc_id", "text")
        collections.append(from_judgements(name, corpus, queries, qrels, directory))
    return collections


def read_nanobeir(directory: Path, split: str | None, *, name: str | None = None) -> Collection:
    """Read Parquet files in the folders corpus and queries (_id, text) and qrels (query-id, corpus-id, maybe score).

    Args:
        directory: holds the folders, and in each <split>-00000-of-00001.parquet.
        split: which set, such as NanoMSMARCO; None if there is only one.
        name: what to call it; None for the split.

    Raises:
        FileNotFoundError: if there is no such split.
        UserError: for a file without these columns, or as `from_judgements`.
        MissingExtra: without pyarrow, which the extras `parquet` and `eval` install.
    """
    matches = (_SHARD.fullmatch(path.name) for path in (directory / "corpus").glob("*.parquet"))
    splits = sorted({match[1] for match in matches if match})
    split = splits[0] if split is None and len(splits) == 1 else split
    if split not in splits:
        problem = "give a split" if split is None else f"there is no split {split!r}"
        raise FileNotFoundError(f"{directory}: {problem}; the splits are: {', '.join(splits) or 'none'}")
    corpus, queries = (partial(_columns, directory / part, split, "_id", "text") for part in ("corpus", "queries"))
    qrels: dict[str, dict[str, float]] = {}
    judged = Unique()
    columns = _columns(directory / "qrels", split, "query-id", "corpus-id", score=1)
    for query_id, doc_id, gain, where in columns:
        add_judgement(qrels, judged, query_id, doc_id, float(gain), where)
    return from_judgements(name or split, corpus, queries(), qrels, directory / "qrels" / split)


def _of_length(rows: list[Row], length: int | None) -> list[Row]:
    return rows if length is None else [row for row in rows if row.values.get("context_length") == length]


def _ids_texts_places(source: str) -> Iterator[tuple[str, str, str]]:
    return ((query.id, query.text, where) for query, where in read_ids_and_texts(source))


def _pairs(rows: Iterable[Row], first: str, second: str) -> Iterator[tuple[str, str, str]]:
    """Two values of each row, and its place."""
    for values, where in rows:
        for name in (first, second):
            if not isinstance(values.get(name), str | int):
                raise UserError(f"{where}: `{name}` must be a string, found {values.get(name)!r:.60}")
        yield str(values[first]), str(values[second]), where


def _columns(folder: Path, split: str, *names: str, **defaults: Any) -> Iterator[tuple[Any, ...]]:
    """The values of the named columns, and of those that have a default if the file does not have them; the place."""
    paths = sorted(folder.glob(f"{split}-?????-of-?????.parquet"))
    if not paths:
        raise FileNotFoundError(f"there is no {folder / split}-00000-of-00001.parquet")
    for path in paths:
        with parquet.opened(str(path)) as file:
            columns = file.schema_arrow.names
        missing = [name for name in names if name not in columns]
        if missing:
            raise UserError(f"{path} has no column {missing[0]!r}, its columns are {', '.join(columns)}")
        chosen = [name for name in (*names, *defaults) if name in columns]
        for values, where in parquet.read(str(path), columns=chosen):
            yield (*(_id_or_text((defaults | values)[name]) for name in (*names, *defaults)), where)


def _id_or_text(value: Any) -> Any:
    """The value; of a whole number, which is an id or a gain, its decimal digits."""
    return str(value) if isinstance(value, int) else value
