"""Building an index: streams, bad input, the same bytes each time, continuing a stopped build, memory."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_builds import Stop, stop_at

from colbertz import Index, Ragged
from colbertz.index.store import codec as codecs
from colbertz.index.store.codec import Codec
from colbertz.index.store.manifest import Encoding
from colbertz.index.write import checked_json

DIM = 16
LENGTHS = [3, 1, 12, 7, 30, 5, 2, 9] * 5


def random_ragged(lengths: list[int], dim: int = DIM, seed: int = 0) -> Ragged:
    values = torch.randn(sum(lengths), dim, generator=torch.Generator().manual_seed(seed))
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def documents() -> Ragged:
    return random_ragged(LENGTHS)


# In small chunks; a document of 30 tokens is a chunk of its own.
build_in_chunks = partial(Index.build, chunk_tokens=20)


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_streaming_gives_the_same_files_as_all_at_once(nbits: int, documents: Ragged, tmp_path: Path) -> None:
    ids = [f"id{i}" for i in range(len(documents))]
    whole = Index.build(tmp_path / "whole", documents, ids=ids, texts=ids, nbits=nbits)

    def batches(first: int = 0) -> Iterator[Ragged]:
        yield from (documents[i : i + 3] for i in range(first, len(documents), 3))

    build_in_chunks(tmp_path / "streamed", batches(), ids=iter(ids), texts=iter(ids), nbits=nbits)
    build_in_chunks(tmp_path / "called", batches, ids=ids, texts=ids, nbits=nbits)
    assert files(tmp_path / "streamed") == files(tmp_path / "called") == files(whole.path)
    assert set(files(whole.path)) == {"manifest.json", *whole.manifest.files}


def test_threads_do_not_change_the_files(tmp_path: Path) -> None:
    """Above 512 centroids, where k-means has two levels."""
    documents = random_ragged([50] * 100)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            Index.build(tmp_path / str(number), documents)
    finally:
        torch.set_num_threads(threads)
    assert files(tmp_path / "1") == files(tmp_path / "2")
    other = Index.build(tmp_path / "other", documents, seed=1)
    assert other.manifest.files != Index.open(tmp_path / "1").manifest.files


def test_an_index_is_replaced_only_with_overwrite(documents: Ragged, tmp_path: Path) -> None:
    old = Index.build(tmp_path / "index", documents)
    with pytest.raises(FileExistsError, match="already holds an index; name another directory"):
        Index.build(tmp_path / "index", random_ragged([4]))
    new = Index.build(tmp_path / "index", random_ragged([4, 5]), overwrite=True)
    assert (len(old), len(new)) == (40, 2)
    assert set(files(tmp_path / "index")) == {"manifest.json", *new.manifest.files}


# -- bad input -------------------------------------------------------------------------------------------------------

BROKEN = random_ragged([2, 3, 4])
BROKEN.values[4, 1] = float("nan")
ZERO = random_ragged([2, 3, 4])
ZERO.values[3] = 0


@pytest.mark.parametrize(
    ("embeddings", "details", "error", "message"),
    [
        (BROKEN, {}, ValueError, "document 1 has embeddings that are NaN"),
        (random_ragged([3, 2]).map(lambda v: v * 1e6), {}, ValueError, "document 0 .*too large for float16"),
        (random_ragged([3, 0, 2]), {}, ValueError, "document 1 has no tokens"),
        (ZERO, {}, ValueError, "document 1 has a token whose embedding is zero"),
        ([], {}, ValueError, "at least one document"),
        (lambda first: [], {}, ValueError, "at least one document"),
        (Ragged.from_lengths(torch.zeros(0, DIM), []), {}, ValueError, "at least one document"),
        ([random_ragged([3]), random_ragged([3], dim=8)], {}, ValueError, "document 1 has dimension 8 and .* 16"),
        (Ragged.from_lengths(torch.zeros(3, dtype=torch.int64), [3]), {}, ValueError, "floating point rows"),
        (random_ragged([3, 3])[0], {}, TypeError, "embeddings must be a Ragged or an iterable of Ragged, got Tensor"),
        (random_ragged([3], dim=12), {"nbits": 1}, ValueError, "dimension 12 .* nbits 1: .* multiple of 8"),
        (random_ragged([3], dim=9), {"nbits": 4}, ValueError, "dimension 9 .* nbits 4: .* multiple of 2"),
        (random_ragged([3]), {"nbits": 3}, ValueError, "nbits must be one of 1, 2, 4, 8, got 3"),
        (random_ragged([3, 3]), {"ids": ["a", "a"]}, ValueError, "documents 0 and 1 have the same id 'a'"),
        (random_ragged([3, 3]), {"ids": ["a", 7]}, TypeError, r"document 1: ids must be strings, got 7 \(int\)"),
        (random_ragged([3, 3]), {"ids": "ab"}, TypeError, "ids must be a list .* got a string"),
        (random_ragged([3, 3]), {"ids": ["a"]}, ValueError, "fewer ids than embeddings: the ids end after 1"),
        (random_ragged([3, 3]), {"texts": ["a"] * 3}, ValueError, "more texts than embeddings: there are only 2"),
        (random_ragged([3, 3]), {"texts": ["a", None, "c"]}, ValueError, "more texts"),
        (random_ragged([3, 3]), {"texts": ["a", b"b"]}, TypeError, r"document 1 .*: texts must be strings"),
        (random_ragged([3, 3]), {"texts": ["a", "\ud800"]}, ValueError, r"document 1 .*not Unicode"),
        (random_ragged([3, 3]), {"metadata": [{}, []]}, TypeError, r"document 1 .*metadata must be a dict, got list"),
        (random_ragged([3, 3]), {"metadata": [{}, {"x": {1}}]}, TypeError, "document 1 .*plain JSON values"),
        (random_ragged([3, 3]), {"metadata": [{}, {"x": float("nan")}]}, TypeError, "document 1 .*plain JSON values"),
    ],
)
def test_bad_input_changes_nothing(
    embeddings: Any, details: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        Index.build(tmp_path / "new", embeddings, **details)
    assert not (tmp_path / "new").exists()

    index = Index.build(tmp_path / "old", random_ragged([4]), ids=["kept"])
    before = files(tmp_path / "old")
    with pytest.raises(error, match=message):
        Index.build(tmp_path / "old", embeddings, overwrite=True, **details)
    if "nbits" not in details and not callable(embeddings):
        with pytest.raises(error, match=message.replace("at least one document", "nothing to add")):
            index.add(embeddings, **details)
    assert files(tmp_path / "old") == before


# -- continuing ------------------------------------------------------------------------------------------------------


def test_a_stopped_build_is_continued_where_it_was(
    documents: Ragged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {i}" for i in range(len(documents))]
    first_documents: list[int] = []

    def batches(first: int) -> Iterator[Ragged]:
        first_documents.append(first)
        yield from (documents[i : i + 3] for i in range(first, len(documents), 3))

    def build(root: Path) -> None:
        build_in_chunks(root, batches, texts=texts)

    counts: dict[str, int] = {}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return function(*arguments)

        return call

    build(tmp_path / "whole")
    expected = files(tmp_path / "whole")
    root = tmp_path / "index"
    monkeypatch.setattr(codecs, "train", counted("train", codecs.train))
    monkeypatch.setattr(Codec, "encode", counted("encode", Codec.encode))
    nth, skipped = -2, {"train": 0, "encode": 0}
    while True:
        nth += 3
        with monkeypatch.context() as patch:
            stop_at(nth, patch)
            try:
                build(root)
                break
            except Stop:
                pass
        stored = [checked_json.load(path)["doclens"] for path in sorted(root.glob("build/chunks/*.json"))]
        progress = root / "build/progress.json"
        done = checked_json.load(progress) if progress.exists() else {"codec": None, "coded": []}
        counts.clear()
        build(root)
        assert first_documents[-1] == sum(map(len, stored)), "only documents that are not stored are asked for"
        assert counts.get("train", 0) == (done["codec"] is None)
        num_chunks = counts.get("encode", 0) + len(done["coded"])
        skipped["train"] += done["codec"] is not None
        skipped["encode"] += len(done["coded"])
        assert files(root) == expected
        shutil.rmtree(root)
    assert nth > 2 * num_chunks > 20
    assert skipped["train"] > 5
    assert skipped["encode"] > 30


def test_ctrl_c_in_the_stream(documents: Ragged, tmp_path: Path) -> None:
    def interrupted(first: int) -> Iterator[Ragged]:
        yield documents[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_in_chunks(tmp_path / "index", interrupted)
    with pytest.raises(ValueError, match="holds no index yet: its build was interrupted; start it again"):
        Index.open(tmp_path / "index")
    first_documents: list[int] = []
    build_in_chunks(tmp_path / "index", lambda first: first_documents.append(first) or [documents[first:]])  # type: ignore[func-returns-value]
    Index.build(tmp_path / "whole", documents)
    assert first_documents[0] > 10
    assert files(tmp_path / "index") == files(tmp_path / "whole")


TEXTS = [f"text {i}" for i in range(40)]


@pytest.mark.parametrize(
    "changed",
    [
        {"texts": [*TEXTS[:5], "another", *TEXTS[6:]]},
        {"lengths": LENGTHS[:20], "texts": TEXTS[:20]},
        {"lengths": [*LENGTHS, 25], "texts": [*TEXTS, "more"]},
        {"seed": 7, "texts": [f"other {i}" for i in range(40)]},
        {"seed": 7, "called": False},
        {"lengths": LENGTHS[:20], "texts": TEXTS[:20], "called": False},
        {"nbits": 2},
        {"model": "another"},
        {"fingerprint": [1.0] * DIM},
        {"encoding": Encoding("torch", "float32")},
    ],
)
@pytest.mark.parametrize("nth", [20, 50])
def test_another_input_or_setting_does_not_mix_with_what_a_stopped_build_has_left(
    changed: dict[str, Any],
    nth: int,
    documents: Ragged,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped while chunks are stored, and while they are coded. An added document was once coded by the old codec."""
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(nth, patch)
        build_in_chunks(tmp_path / "index", lambda first: [documents[first:]], texts=TEXTS)
    other = random_ragged(changed.get("lengths", LENGTHS), seed=changed.get("seed", 0))
    if "lengths" in changed and "seed" not in changed:
        common = min(len(other.values), len(documents.values))
        other.values[:common] = documents.values[:common]
    options = {"texts": TEXTS} | {
        name: value for name, value in changed.items() if name not in ("lengths", "seed", "called")
    }
    build_in_chunks(
        tmp_path / "index", (lambda first: [other[first:]]) if changed.get("called", True) else other, **options
    )
    Index.build(tmp_path / "clean", other, **options)
    assert files(tmp_path / "index") == files(tmp_path / "clean")


def test_a_chunk_that_a_power_cut_has_damaged_is_stored_again(
    documents: Ragged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(40, patch)
        build_in_chunks(tmp_path / "index", lambda first: [documents[first:]])
    chunk = tmp_path / "index/build/chunks/000003.npy"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    build_in_chunks(tmp_path / "index", lambda first: [documents[first:]])
    Index.build(tmp_path / "clean", documents)
    assert files(tmp_path / "index") == files(tmp_path / "clean")


# -- memory ----------------------------------------------------------------------------------------------------------


def grown(num_batches: int, root: Path) -> int:
    """MB by which building an index of so many batches of 20,000 tokens of 128 dimensions makes a process grow."""
    code = f"""
import pathlib, resource, torch
from colbertz import Ragged
from colbertz.index.write.build import build
from colbertz.index.write.stream import DocumentStream, in_step
torch.set_num_threads(1)
def batches(count):
    for seed in range(count):
        torch.manual_seed(seed)
        yield Ragged.from_lengths(torch.randn(20_000, 128), [200] * 100)
def build_index(name, num_batches):
    stream = in_step(DocumentStream.from_columns(None, None, None), batches(num_batches))
    build(pathlib.Path({str(root)!r}) / name, stream, chunk_tokens=20_000, max_sample=1_000)
build_index("small", 4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_index("index", {num_batches})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_a_build_holds_a_chunk_and_a_sample(tmp_path: Path) -> None:
    """200 MB of float32 embeddings, as many as 20 batches, go through a process that hardly grows."""
    assert grown(20, tmp_path) < 60


def test_an_error_late_in_the_stream_keeps_what_is_stored(documents: Ragged, tmp_path: Path) -> None:
    first_documents: list[int] = []

    def embeddings(first: int, stop: int = len(documents)) -> Iterator[Ragged]:
        first_documents.append(first)
        yield from (documents[i : i + 1] for i in range(first, stop))
        if stop < len(documents):
            raise ValueError("the encoder failed")

    ids = [f"d{i}" for i in range(len(documents))]
    with pytest.raises(ValueError, match="the encoder failed"):
        build_in_chunks(tmp_path / "index", lambda first: embeddings(first, 30), ids=ids)
    with pytest.raises(ValueError, match="its build was interrupted; start it again"):
        Index.open(tmp_path / "index")
    build_in_chunks(tmp_path / "index", embeddings, ids=ids)
    assert first_documents[0] == 0 and first_documents[1] > 20
    Index.build(tmp_path / "whole", documents, ids=ids)
    assert files(tmp_path / "index") == files(tmp_path / "whole")
