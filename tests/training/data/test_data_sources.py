"""Files, saved directories, published layouts and streams, as tiny local copies of the published schemas."""

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.corpus.rows import BadRow
from colbertz.training.config import SourceConfig
from colbertz.training.data import Example, Source, open_sources
from colbertz.training.data.lookup import hashes_of
from colbertz.training.data.tables import Stream

datasets = pytest.importorskip("datasets")

PAIRS = {"query": ["what is a?", "what is ß?"], "document": ["an a", 'a ß,\n"quoted"']}
EXAMPLES = [Example(query, (document,)) for query, document in zip(*PAIRS.values())]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def read(source: Source) -> list[Example]:
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301  as loader processes get it
    return [copy[index] for index in range(len(source))]


def only(config: SourceConfig) -> Source:
    (source,) = open_sources(config)
    return source


def parquet(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


# -- files and directories ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "saved", "saved splits", "hub copy"])
def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path, kind: str) -> None:
    path, data = tmp_path / "mine", datasets.Dataset.from_dict(PAIRS)
    if kind == "csv":
        path = tmp_path / "mine.csv"
        pyarrow.csv.write_csv(pa.table(PAIRS), path)
    elif kind == "tsv":
        path = tmp_path / "mine.tsv"
        pyarrow.csv.write_csv(pa.table(PAIRS), path, pyarrow.csv.WriteOptions(delimiter="\t"))
    elif kind == "jsonl":
        path = tmp_path / "mine.jsonl"
        path.write_text("\n".join(json.dumps(dict(zip(PAIRS, values))) for values in zip(*PAIRS.values())))
    elif kind == "parquet":
        path = tmp_path / "mine.parquet"
        parquet(path, PAIRS)
    elif kind == "saved":
        data.save_to_disk(path)
    elif kind == "saved splits":
        datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(path)
    else:
        parquet(path / "data" / "train-00000-of-00001.parquet", PAIRS)
        parquet(path / "data" / "test-00000-of-00001.parquet", {name: column[:1] for name, column in PAIRS.items()})
    source = only(SourceConfig(str(path)))
    assert read(source) == EXAMPLES
    assert source.name == "mine"
    if kind in ("saved splits", "hub copy"):
        assert read(only(SourceConfig(str(path), split="test"))) == EXAMPLES[:1]
        assert [s.name for s in open_sources(SourceConfig(str(path), split=["test", "train"]))] == [
            "mine/test",
            "mine/train",
        ]
        with pytest.raises(ValueError, match=r"has no split 'dev', only \w+, \w+; choose with data.train\[0\].split"):
            open_sources(SourceConfig(str(path), split="dev"))


def test_a_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"query": ["a", None], "document": ["b", "c"]})
    with pytest.raises(BadRow, match=r"a.parquet, row 1: has None under 'query'"):
        only(SourceConfig(str(tmp_path / "a.parquet")))[1]


@pytest.mark.parametrize("path", ["none.csv", "none.parquet"])
def test_a_missing_file_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no file .*{path}"):
        open_sources(SourceConfig(str(tmp_path / path)))


@pytest.mark.parametrize("path", ["nobody/nothing", "/tmp/no/such/directory"])
def test_a_path_that_is_neither_on_disk_nor_on_the_hub_is_named(path: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=f"no data file or directory '{path}', and it cannot be loaded from the hub"
    ):
        open_sources(SourceConfig(path))


def test_empty_tables_missing_columns_and_subsets_are_named(tmp_path: Path) -> None:
    parquet(tmp_path / "empty.parquet", {"query": pa.array([], pa.string()), "document": pa.array([], pa.string())})
    with pytest.raises(ValueError, match=r"empty.parquet holds no rows"):
        open_sources(SourceConfig(str(tmp_path / "empty.parquet")))
    (tmp_path / "empty.csv").write_text("query,document\n")
    with pytest.raises(ValueError, match=r"empty.csv holds no rows"):
        open_sources(SourceConfig(str(tmp_path / "empty.csv")))
    parquet(tmp_path / "d" / "a.parquet", PAIRS)
    with pytest.raises(ValueError, match=r"has no column 'answer', only query, document; choose with .*document"):
        open_sources(SourceConfig(str(tmp_path / "d"), document="answer"))
    with pytest.raises(ValueError, match="'french' not found"):
        open_sources(SourceConfig(str(tmp_path / "d"), subset="french"))


def test_without_the_datasets_library_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r'datasets is not installed; install it with: pip install "colbertz\[train\]"'
    ):
        open_sources(SourceConfig(str(tmp_path / "a.parquet")))


# -- published layouts -------------------------------------------------------------------------------------------


def test_nomic_unsupervised_opens_each_split_as_a_source(tmp_path: Path) -> None:
    for split in ("paq", "squad", "s2orc_title_abstract"):
        columns = PAIRS | {"dataset": [split] * 2, "shard": [0, 1]}
        parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", columns)
    opened = open_sources(SourceConfig(str(tmp_path), layout="nomic-unsupervised"))
    assert sorted(source.name for source in opened) == ["paq", "s2orc_title_abstract", "squad"]
    assert all(read(source) == EXAMPLES for source in opened)
    chosen = open_sources(SourceConfig(str(tmp_path), layout="nomic-unsupervised", split=["squad", "paq"], weight=2))
    assert [(source.name, source.weight) for source in chosen] == [("squad", 2), ("paq", 2)]
    for split in ("yahoo_qa", ["paq", "yahoo_qa"]):
        with pytest.raises(ValueError, match=r"not all of the splits .*yahoo_qa, only .*squad.*; choose"):
            open_sources(SourceConfig(str(tmp_path), layout="nomic-unsupervised", split=split))


def test_nomic_supervised_has_hard_negatives(tmp_path: Path) -> None:
    columns = PAIRS | {"negative": [["n", "m", "o"], []], "dataset": ["nli", "nli"]}
    parquet(tmp_path / "data" / "nli-00000-of-00001.parquet", columns)
    source = only(SourceConfig(str(tmp_path), layout="nomic-supervised", max_negatives=2))
    assert read(source) == [Example(PAIRS["query"][0], (PAIRS["document"][0], "n", "m")), EXAMPLES[1]]


QUERIES = {"query_id": ["q1", "q2"], "text": ["one?", "two?"]}
DOCUMENTS = {"document_id": ["d1", "d2", "longer id é", "d3"], "text": ["a", "b", "c", "ü"]}
LISTS = {
    "query_id": ["q2", "q1", "q9", "q1"],
    "document_ids": [["d3", "d1"], ["longer id é", "d2"], ["d1", "d2"], ["d1", "d4"]],
    "scores": [[0.5, 0.25], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]],
}
TABLES = {"train": LISTS, "queries": QUERIES, "documents": DOCUMENTS}


def scored(path: Path, **changes: Any) -> SourceConfig:
    return SourceConfig(str(path), layout="ms-marco-scores", **changes)


def write_tables(folder: Path, kind: str, tables: dict[str, dict[str, list[Any]]]) -> None:
    for name, columns in tables.items():
        if kind == "jsonl":
            lines = [json.dumps(dict(zip(columns, values))) for values in zip(*columns.values())]
            (folder / f"{name}.jsonl").write_text("\n".join(lines))
        elif kind == "directories":
            parquet(folder / name / "train-00000-of-00001.parquet", columns)
        else:
            parquet(folder / "files" / f"{name}.parquet", columns)
    if kind == "readme":
        entries = "".join(f"- config_name: {name}\n  data_files: files/{name}.parquet\n" for name in tables)
        (folder / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")


@pytest.mark.parametrize("kind", ["jsonl", "directories", "readme"])
@pytest.mark.parametrize("as_strings", [False, True])
def test_scored_lists_get_their_texts_by_id(tmp_path: Path, kind: str, as_strings: bool) -> None:
    lists = LISTS
    if as_strings:
        lists = LISTS | {name: [str(value) for value in LISTS[name]] for name in ("document_ids", "scores")}
    write_tables(tmp_path, kind, TABLES | {"train": lists})
    source = pickle.loads(pickle.dumps(only(scored(tmp_path))))  # noqa: S301  as loader processes get it
    assert source.scored
    assert len(source) == 4
    assert source[0] == Example("two?", ("ü", "a"), (0.5, 0.25), ("d3", "d1"))
    assert source[1] == Example("one?", ("c", "b"), (1.0, 2.0), ("longer id é", "d2"))
    with pytest.raises(BadRow, match=r"(row 2|line 3): needs the query_id 'q9', which is not in"):
        source[2]
    with pytest.raises(BadRow, match=r"(row 3|line 4): needs the document_id 'd4', which is not in"):
        source[3]


def test_ids_may_be_integers_on_one_side_and_strings_on_the_other(tmp_path: Path) -> None:
    small = {
        "train": {"query_id": [5], "document_ids": [["12", "7"]], "scores": [[1.0, 0.0]]},
        "queries": {"query_id": ["5"], "text": ["q"]},
        "documents": {"document_id": [7, 12, 12], "text": ["a", "b", "a later one with the same id"]},
    }
    write_tables(tmp_path, "directories", small)
    assert only(scored(tmp_path, max_documents=2))[0] == Example("q", ("b", "a"), (1.0, 0.0), ("12", "7"))


def test_a_row_of_lists_without_a_key_is_bad(tmp_path: Path) -> None:
    write_tables(tmp_path, "jsonl", TABLES)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('\n{"query_id": "q1", "scores": [1, 2]}')
    with pytest.raises(BadRow, match=r"train.jsonl, line 5: has no key 'document_ids'"):
        only(scored(tmp_path))[4]


@pytest.mark.parametrize("kind", ["jsonl", "directories"])
def test_a_table_of_scored_lists_without_a_column_is_named_at_opening(tmp_path: Path, kind: str) -> None:
    write_tables(tmp_path, kind, TABLES | {"documents": {"document_id": ["d1"], "body": ["a"]}})
    with pytest.raises(ValueError, match=r"the table documents of .* has no column 'text', only document_id, body"):
        only(scored(tmp_path))


@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1), st.text(min_size=1))
def test_the_hash_of_an_id_does_not_depend_on_the_other_ids_of_its_list(names: list[str], longer: str) -> None:
    alone = np.concatenate([hashes_of([name]) for name in names])
    assert (hashes_of([*names, max(names, key=len) + longer])[:-1] == alone).all()
    assert len(set(alone.tolist())) == len(set(names))


# -- streams -----------------------------------------------------------------------------------------------------


def stream(folder: Path, **changes: Any) -> Source:
    return only(SourceConfig(str(folder), streaming=True, **changes))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for shard in range(4):
        rows = [f"{shard}-{row}" for row in range(5)]
        lines = [json.dumps({"query": text, "document": text}) for text in rows]
        path = tmp_path / "hub" / "data" / f"train-{shard:05}-of-00004.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    return tmp_path / "hub"


def test_a_stream_gives_every_row_once_a_pass_in_a_new_order(shards: Path) -> None:
    source = stream(shards, weight=1)
    passes = [[source[index].query for index in range(first, first + 20)] for first in (0, 20)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(f"{s}-{r}" for s in range(4) for r in range(5))
    assert passes[0] != passes[1]
    assert passes[0] != sorted(passes[0])


POSITIONS = (3, 3, 4, 17, 41, 39, 38, 40, 41, 42, 38, 2, 1)


def test_positions_of_a_stream_may_be_skipped_and_begun_anew(shards: Path) -> None:
    config = SourceConfig(str(shards), streaming=True)
    data = datasets.load_dataset(str(shards), streaming=True)["train"]
    source = Source("hub", Stream("hub", data, seed=0, num_recent=4), config)
    expected = [source[index] for index in range(50)]
    assert [source[index] for index in POSITIONS] == [expected[index] for index in POSITIONS]
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301  as loader processes get it
    assert [copy[index] for index in (40, 2)] == [expected[40], expected[2]]


def test_the_order_of_a_stream_depends_on_the_seed(shards: Path) -> None:
    orders = [open_sources(SourceConfig(str(shards), streaming=True), seed=seed)[0] for seed in (1, 1, 2)]
    first, same, other = ([source[index] for index in range(20)] for source in orders)
    assert first == same != other


def test_a_stream_that_says_how_long_it_is(shards: Path) -> None:
    assert stream(shards).num_rows is None
    with pytest.raises(TypeError, match="does not say how many rows"):
        len(stream(shards))
    info = "dataset_info:\n  splits:\n  - name: train\n    num_examples: 20\n"
    (shards / "README.md").write_text(f"---\n{info}---\n")
    assert len(stream(shards)) == 20
