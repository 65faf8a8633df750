"""The index against brute force, and what it does with bad input, damage, full disks and being killed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import colbertz.index.search
from colbertz import Index, Ragged
from colbertz.index import Hit

DIM = 16


def random_ragged(lengths: list[int], dim: int = DIM, seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), dim, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def brute_force(queries: Ragged, documents: Ragged) -> torch.Tensor:
    """Scores over the stored (float16) embeddings, a pair at a time."""
    stored = documents.to(torch.float16).float()
    return torch.stack([torch.stack([(q @ d.T).amax(1).sum() for d in stored]) for q in queries])


@pytest.fixture
def documents() -> Ragged:
    return random_ragged([3, 1, 12, 7, 30, 5, 2, 9] * 5)


@pytest.fixture
def queries() -> Ragged:
    return random_ragged([4, 1, 8], seed=1)


# -- search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_tokens", [1, 20, 131_072])
def test_search_equals_brute_force(
    documents: Ragged, queries: Ragged, block_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colbertz.index.search, "BLOCK_TOKENS", block_tokens)
    monkeypatch.setattr(colbertz.index.search, "QUERY_TOKENS", 5)
    index = Index.build(tmp_path / "index", documents)
    expected = brute_force(queries, documents)
    for k in (1, 7, len(documents)):
        for hits, scores in zip(index.search(queries, k), expected, strict=True):
            best = scores.sort(descending=True)
            assert [hit.id for hit in hits] == [str(number) for number in best.indices[:k].tolist()]
            torch.testing.assert_close(torch.tensor([hit.score for hit in hits]), best.values[:k], atol=1e-5, rtol=1e-5)


def test_more_hits_than_documents_are_all_documents(documents: Ragged, queries: Ragged, tmp_path: Path) -> None:
    hits = Index.build(tmp_path / "index", documents).search(queries, k=1000)
    assert [len(h) for h in hits] == [len(documents)] * len(queries)


def test_equal_scores_come_in_order_of_insertion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colbertz.index.search, "BLOCK_TOKENS", 8)
    one = random_ragged([3])
    index = Index.build(tmp_path / "index", Ragged.cat([one] * 20), ids=[f"d{i}" for i in range(20)])
    assert [hit.id for hit in index.search(one, k=12)[0]] == [f"d{i}" for i in range(12)]


def test_hits_carry_ids_texts_and_metadata(tmp_path: Path) -> None:
    documents = random_ragged([3, 4])
    metadata = [{"path": "a.py", "line": 3}, {"tags": ["é", None, 1.5], "nested": {"x": True}}]
    index = Index.build(
        tmp_path / "index", documents, ids=["first", "日本"], texts=["one", "two 🙂"], metadata=metadata, model="./m"
    )
    hits = index.search(documents[1:2], k=2)[0]
    assert hits[0] == Hit("日本", hits[0].score, "two 🙂", metadata[1])
    assert hits[1] == Hit("first", hits[1].score, "one", metadata[0])
    assert hits[0].score == pytest.approx(4, abs=1e-2)
    assert (len(index), index.embedding_dim, index.num_tokens, index.model) == (2, DIM, 7, "./m")


@pytest.mark.gpu
def test_search_runs_on_the_queries_device(documents: Ragged, queries: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents.to("cuda"))
    expected = index.search(queries)
    for hits, others in zip(index.search(queries.to("cuda")), expected, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others], abs=1e-3)


def test_no_queries_no_answers(documents: Ragged, tmp_path: Path) -> None:
    assert Index.build(tmp_path / "index", documents).search(Ragged.from_lengths(torch.zeros(0, DIM), [])) == []


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (random_ragged([3], dim=8), 10, r"shape \(3, 8\) do not fit an index of dimension 16"),
        (random_ragged([3, 0]), 10, "query 1 has no tokens"),
        (random_ragged([3]).map(lambda v: v * float("nan")), 10, "NaN or infinite"),
        (random_ragged([3]), 0, "k must be an integer of at least 1, got 0"),
        (random_ragged([3]), 2.0, "k must be an integer of at least 1, got 2.0"),
    ],
)
def test_bad_queries(queries: Ragged, k: int, message: str, documents: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents)
    with pytest.raises(ValueError, match=message):
        index.search(queries, k)


def test_queries_must_be_ragged(documents: Ragged, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="queries must be a Ragged of embeddings, got list"):
        Index.build(tmp_path / "index", documents).search(["a text"])  # type: ignore[arg-type]


# -- build -------------------------------------------------------------------------------------------------------


def test_streaming_gives_the_same_files_as_all_at_once(documents: Ragged, tmp_path: Path) -> None:
    ids = [f"id{i}" for i in range(len(documents))]
    whole = Index.build(tmp_path / "whole", documents, ids=ids, texts=ids)
    batches = (documents[i : i + 3] for i in range(0, len(documents), 3))
    streamed = Index.build(tmp_path / "streamed", batches, ids=iter(ids), texts=iter(ids))
    assert streamed.manifest == whole.manifest


def test_a_build_holds_one_batch_at_a_time(tmp_path: Path) -> None:
    """300 MB of float32 embeddings go through a process that may grow by less than half of that."""
    code = f"""
import resource, torch
from colbertz import Index, Ragged
def batches():
    for seed in range(30):
        torch.manual_seed(seed)
        yield Ragged.from_lengths(torch.randn(20_000, 128), [200] * 100)
next(batches())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Index.build({str(tmp_path / "index")!r}, batches())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 120


def test_an_index_is_replaced_only_when_asked(documents: Ragged, queries: Ragged, tmp_path: Path) -> None:
    old = Index.build(tmp_path / "index", documents)
    answers = old.search(queries)
    with pytest.raises(FileExistsError, match="already holds an index; pass overwrite=True"):
        Index.build(tmp_path / "index", random_ragged([4]))
    new = Index.build(tmp_path / "index", random_ragged([4, 5]), overwrite=True)
    assert len(new) == 2
    assert len(list((tmp_path / "index").iterdir())) == 2
    assert old.search(queries) == answers, "an open index is a snapshot"


def test_other_directories_and_files_are_left_alone(documents: Ragged, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files and no index"):
        Index.build(tmp_path, documents, overwrite=True)
    with pytest.raises(ValueError, match="it is a file; name a directory"):
        Index.build(tmp_path / "notes.txt", documents, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


BROKEN = random_ragged([2, 3, 4])
BROKEN.values[4, 1] = float("nan")


@pytest.mark.parametrize(
    ("embeddings", "details", "error", "message"),
    [
        (BROKEN, {}, ValueError, "document 1 has embeddings that are NaN"),
        (random_ragged([3, 2]).map(lambda v: v * 1e6), {}, ValueError, "document 0 .*too large for float16"),
        (random_ragged([3, 0, 2]), {}, ValueError, "document 1 has no tokens"),
        ([], {}, ValueError, "at least one document"),
        (Ragged.from_lengths(torch.zeros(0, DIM), []), {}, ValueError, "at least one document"),
        ([random_ragged([3]), random_ragged([3], dim=8)], {}, ValueError, "document 1 has dimension 8 and .* 16"),
        (Ragged.from_lengths(torch.zeros(3, dtype=torch.int64), [3]), {}, ValueError, "floating point rows"),
        (random_ragged([3, 3])[0], {}, TypeError, "embeddings must be a Ragged or an iterable of Ragged, got Tensor"),
        (random_ragged([3, 3]), {"ids": ["a", "a"]}, ValueError, "documents 0 and 1 have the same id 'a'"),
        (random_ragged([3, 3]), {"ids": ["a", 7]}, TypeError, r"document 1: ids must be strings, got 7 \(int\)"),
        (random_ragged([3, 3]), {"ids": "ab"}, TypeError, "ids must be a list .* got a string"),
        (random_ragged([3, 3]), {"ids": ["a"]}, ValueError, "fewer ids than embeddings: the ids end after 1"),
        (random_ragged([3, 3]), {"texts": ["a"] * 3}, ValueError, "more texts than embeddings: there are only 2"),
        (random_ragged([3, 3]), {"texts": ["a", None, "c"]}, ValueError, "more texts"),
        (random_ragged([3, 3]), {"texts": ["a", b"b"]}, TypeError, r"document 1 \('1'\): texts must be strings"),
        (random_ragged([3, 3]), {"texts": ["a", "\ud800"]}, ValueError, r"document 1 .*not Unicode"),
        (random_ragged([3, 3]), {"metadata": [{}, []]}, TypeError, r"document 1 .*metadata must be a dict, got list"),
        (random_ragged([3, 3]), {"metadata": [{}, {"x": {1}}]}, TypeError, "document 1 .*plain JSON values"),
        (random_ragged([3, 3]), {"metadata": [{}, {"x": float("nan")}]}, TypeError, "document 1 .*plain JSON values"),
    ],
)
def test_bad_input_changes_nothing(
    embeddings: object, details: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        Index.build(tmp_path / "new", embeddings, **details)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()

    Index.build(tmp_path / "old", random_ragged([4]), ids=["kept"])
    before = state(tmp_path / "old")
    with pytest.raises(error, match=message):
        Index.build(tmp_path / "old", embeddings, overwrite=True, **details)  # type: ignore[arg-type]
    assert state(tmp_path / "old") == before


def state(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embeddings.npy", "doclens.npy", "documents.sqlite"])
def test_truncated_and_missing_files(name: str, documents: Ragged, tmp_path: Path) -> None:
    Index.build(tmp_path / "index", documents)
    file = tmp_path / "index/segment-000001" / name
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match=rf"{name} is damaged: \d+ bytes instead of \d+"):
        Index.open(tmp_path / "index")
    file.unlink()
    with pytest.raises(ValueError, match=rf"damaged: .*{name} is missing"):
        Index.open(tmp_path / "index")


def test_verify_finds_a_flipped_bit(documents: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents)
    index.verify()
    file = tmp_path / "index/segment-000001/embeddings.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"embeddings\.npy is damaged: its checksum"):
        index.verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "fast-plaid"}, "not the manifest of a colbertz index"),
        ({"version": 2}, "format 2 and this colbertz reads up to 1: upgrade colbertz"),
        ({"version": "1"}, "`version` is '1'"),
        ({"num_documents": 39}, "does not hold what its manifest says"),
        ({"num_documents": None}, "must be positive integers"),
        ({"embedding_dim": 8}, "does not hold what its manifest says"),
        ({"segment": "../elsewhere"}, "segment '../elsewhere'"),
        ({"surprise": 1}, "unknown fields surprise"),
    ],
)
def test_a_manifest_that_is_wrong(change: dict[str, object], message: str, documents: Ragged, tmp_path: Path) -> None:
    Index.build(tmp_path, documents)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Index.open(tmp_path)


def test_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such directory"):
        Index.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"not a colbertz index: it has no manifest\.json"):
        Index.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "colb')
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        Index.open(tmp_path)


# -- killed, out of space, two at once ---------------------------------------------------------------------------


def run_crash(mode: str, root: Path) -> list[dict[str, object]]:
    """Rebuild the index at `root` over and over, failing later each time; one entry for each try (see crash.py)."""
    command = [sys.executable, str(Path(__file__).with_name("crash.py")), mode, str(root)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout
    return [json.loads(line) for line in output.splitlines()]


def test_killed_at_any_file_operation_the_old_or_the_new_index_opens(tmp_path: Path) -> None:
    tries = run_crash("kill", tmp_path / "index")
    outcomes = [entry["found"] for entry in tries]
    assert len(tries) > 15
    assert outcomes == sorted(outcomes, key=["old", "new"].index), "old until the rename, new from then on"
    assert set(outcomes) == {"old", "new"}


def test_killed_at_any_file_operation_a_first_build_can_be_repeated(tmp_path: Path) -> None:
    outcomes = [entry["found"] for entry in run_crash("kill-first", tmp_path / "index")]
    assert set(outcomes) == {"nothing", "new"}
    assert outcomes == sorted(outcomes, key=["nothing", "new"].index)


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    tries = run_crash("full", tmp_path / "index")
    assert tries[-1]["found"] == "new"
    for entry in tries[:-1]:
        assert entry["found"] == "old"
        assert entry["error"] == "OSError"
        assert len(entry["files"]) == 2, "nothing of the failed build is left"
    assert len(tries) > 4


def test_only_one_process_builds_at_a_time(tmp_path: Path) -> None:
    def slow_batches() -> Iterator[Ragged]:
        yield random_ragged([3])
        with pytest.raises(BlockingIOError, match="another process is building the index"):
            Index.build(tmp_path / "index", random_ragged([3]))

    assert len(Index.build(tmp_path / "index", slow_batches())) == 1
