"""docs/format.md against the files: a reader that was written from the page alone, and the pages' own examples.

The reader stands first and uses nothing of colbertz. Where it cannot read what colbertz wrote, the page is wrong.
"""

import hashlib
import json
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def quick_checksum(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    last, crc = max(0, len(content) - 4096), 0
    for begin in sorted({last * i // 15 for i in range(16)}):
        crc = zlib.crc32(content[begin : begin + 4096], crc)
    return len(content), crc


def own_checksum(manifest: Path) -> str:
    content = manifest.read_bytes()
    digits = json.loads(content)["sha256"].encode()
    return hashlib.sha256(content.replace(digits, b"0" * 64)).hexdigest()


def checksum(numbers: np.ndarray) -> int:
    values = numbers.reshape(-1).astype(np.uint64)
    return int((values * (2 * np.arange(len(values), dtype=np.uint64) + 1)).sum()) % (1 << 32)


def unpack(rows: np.ndarray, nbits: int) -> np.ndarray:
    """Buckets (N, E) of packed residuals (N, E · nbits / 8)."""
    bits = np.unpackbits(rows, axis=1).reshape(len(rows), -1, nbits)  # from the highest bit of each byte
    return bits @ (1 << np.arange(nbits))  # the lowest bit of a bucket comes first


class Reader:
    """All documents of an index that are not deleted: `ids`, `texts`, `metadata` and decoded `vectors`, in order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        assert (manifest["format"], manifest["version"]) == ("colbertz-index", 3)
        assert manifest["sha256"] == own_checksum(root / "manifest.json")
        for name, expected in manifest["files"].items():
            assert quick_checksum(root / name) == (expected["size"], expected["quick"]), name
            if expected["whole"] is not None:
                content = (root / name).read_bytes()
                words = np.frombuffer(content + bytes(-len(content) % 4), "<u4")
                assert checksum(words) == expected["whole"], name
        self.centroids = self.array(manifest["codec"], "centroids").astype(np.float32)
        self.weights = self.array(manifest["codec"], "bucket_weights")
        self.ids, self.texts, self.metadata, self.vectors = [], [], [], []
        for segment in manifest["segments"]:
            self.read(segment)

    def array(self, folder: str, name: str) -> np.ndarray:
        return np.load(self.root / folder / f"{name}.npy", allow_pickle=False)

    def read(self, segment: dict[str, Any]) -> None:
        name = segment["name"]
        codes, doclens, norms = (self.array(name, n) for n in ("codes", "doclens", "inverse_norms"))
        assert (len(doclens), len(codes)) == (segment["num_documents"], segment["num_tokens"])
        residuals = self.weights[unpack(self.array(name, "residuals"), self.manifest["nbits"])]
        raw = self.centroids[codes] + residuals
        assert np.allclose(norms, 1 / np.maximum(np.linalg.norm(raw, axis=1), 1e-12), rtol=1e-5)
        vectors = np.split(raw * norms[:, None], np.cumsum(doclens.astype(np.int64))[:-1])
        self.check_lists(name, codes, doclens)
        self.check_checksums(name, codes, doclens, norms)
        deleted = set(np.load(self.root / segment["deleted"]).tolist() if segment["deleted"] else [])
        assert len(deleted) == segment["num_deleted"]
        database = sqlite3.connect(f"{(self.root / name / 'documents.sqlite').as_uri()}?mode=ro&immutable=1", uri=True)
        rows = database.execute("SELECT number, id, text, metadata FROM documents ORDER BY number").fetchall()
        database.close()
        assert [number for number, *_ in rows] == list(range(len(doclens)))
        for number, id, text, metadata in rows:
            if number not in deleted:
                self.ids.append(id)
                self.texts.append(text)
                self.metadata.append(json.loads(metadata))
                self.vectors.append(vectors[number])

    def check_lists(self, name: str, codes: np.ndarray, doclens: np.ndarray) -> None:
        of_token = np.repeat(np.arange(len(doclens)), doclens)
        lists = np.split(self.array(name, "ivf"), np.cumsum(self.array(name, "ivf_lengths"))[:-1])
        assert codes.max() < len(lists) <= len(self.centroids)
        for cell, documents in enumerate(lists):
            assert documents.tolist() == np.unique(of_token[codes == cell]).tolist()

    def check_checksums(self, name: str, codes: np.ndarray, doclens: np.ndarray, norms: np.ndarray) -> None:
        rows, ends = self.array(name, "residuals"), np.cumsum(doclens.astype(np.int64))[:-1]
        columns = codes, rows.view("<u4") if rows.shape[1] % 4 == 0 else rows, norms.view("<u4")
        sums = [[checksum(part) for part in np.split(column, ends)] for column in columns]
        assert np.array(sums).T.tolist() == self.array(name, "document_checksums").tolist()
        lists = np.split(self.array(name, "ivf"), np.cumsum(self.array(name, "ivf_lengths"))[:-1])
        assert [checksum(part) for part in lists] == self.array(name, "list_checksums").tolist()

    def best(self, query: np.ndarray, k: int) -> list[tuple[str, float, str | None, dict[str, Any]]]:
        scores = [float((query @ vectors.T).max(1).sum()) for vectors in self.vectors]
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
        return [(self.ids[i], scores[i], self.texts[i], self.metadata[i]) for i in order]


# -- What colbertz writes, and the page --------------------------------------------------------------------------------
# ruff: noqa: E402

import math
import os
import re
from collections import Counter

import pytest
import torch
from test_docs import DOCS, run_blocks

from colbertz import Index, Ragged
from colbertz.index.search import plan, refine
from colbertz.index.search.options import SearchOptions
from colbertz.index.store import kmeans
from colbertz.index.store import manifest as layout
from colbertz.index.write import compact, segment_writer, stream
from colbertz.kernels.cpu import nearest

PAGES = ("use.md", "how-it-works.md", "format.md")
PAGE = "".join((DOCS / name).read_text(encoding="utf-8") for name in PAGES)
DIM = 24


def clustered(count: int, seed: int, centres: int = 9) -> Ragged:
    """Documents of unit vectors around some directions."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    directions = torch.randn(20, DIM, generator=torch.Generator().manual_seed(centres))
    chosen = torch.randint(20, (sum(lengths),), generator=generator)
    values = directions[chosen] + 0.6 * torch.randn(sum(lengths), DIM, generator=generator)
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def described(names: str, count: int) -> dict[str, Any]:
    return {
        "ids": [f"{names}{i}" for i in range(count)],
        "texts": [None if i % 5 == 0 else f"Größe {i % 3} of {names}, size {i}\n" for i in range(count)],
        "metadata": [{"year": 1990 + i, "Tags": [i, None], "is": i % 2 == 0, "big": 10**30 + i} for i in range(count)],
    }


def two_segments(root: Path, nbits: int) -> Index:
    """With deletions in both, a replaced document, and centroids that came with the second."""
    index = Index.build(root, clustered(120, 1), **described("a", 120), nbits=nbits)
    index.add(clustered(40, 2, centres=5), **described("b", 40))
    index.delete(["a3", "a119", "b0", "b17"])
    assert len(index.manifest.segments) == 2
    return index


@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_a_reader_made_from_the_page_finds_the_same(nbits: int, tmp_path: Path) -> None:
    index = two_segments(tmp_path / "index", nbits)
    queries = clustered(6, 3)
    reader = Reader(tmp_path / "index")
    assert len(reader.ids) == len(index) == 156
    first, second = (segment["name"] for segment in reader.manifest["segments"])
    assert len(reader.array(first, "ivf_lengths")) < len(reader.array(second, "ivf_lengths")), "no new centroids"
    for query, hits in zip(queries, index.search(queries, 10, exact=True), strict=True):
        found = reader.best(query.numpy(), 10)
        assert [(id, text, metadata) for id, _, text, metadata in found] == [(h.id, h.text, h.metadata) for h in hits]
        assert [score for _, score, _, _ in found] == pytest.approx([hit.score for hit in hits], abs=1e-4)


def test_the_pages_bits() -> None:
    rows = re.findall(r"^\| (\d) \| ([\d, ]+) \| `([01 ]+)` \| `0x(..)` \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "2", "4", "8"]
    for nbits, buckets, bits, byte in rows:
        assert int(bits.replace(" ", ""), 2) == int(byte, 16)
        packed = np.array([[int(byte, 16)]], np.uint8)
        assert unpack(packed, int(nbits)).tolist() == [[int(bucket) for bucket in buckets.split(", ")]]


def test_the_pages_fields_and_files(tmp_path: Path) -> None:
    two_segments(tmp_path / "index", 4)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    tables = PAGE.partition("## manifest.json")[2].partition("**Checksums.**")[0]
    named = {
        name for line in re.findall(r"^\| (`[^|]*) \|", tables, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    }
    in_later_versions = {"applied", "documents", "coding"}
    assert manifest["version"] == 3 and named == {*manifest, *manifest["segments"][0], *in_later_versions}
    tree = PAGE.partition("## Directory")[2].partition("```\n\nThe numbers")[0]
    assert set(re.findall(r"^ {4}([\w.-]+)", tree, re.MULTILINE)) == {
        *("documents-000004.sqlite", "codewords.npy", "rotation.npy"),
        *(path.name for path in (tmp_path / "index").glob("codec-*/*")),
        *(path.name for path in (tmp_path / "index" / "segment-000001").iterdir()),
    }
    for name, expected in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "index" / name).read_bytes()).hexdigest() == expected["sha256"]
    schema = re.search(r"```sql\n(.*?)```", PAGE, re.DOTALL)[1]
    with sqlite3.connect(":memory:") as made:
        made.executescript(schema)
    with sqlite3.connect(tmp_path / "index" / "segment-000001" / "documents.sqlite") as written:
        for table in ("documents", "fields", "postings", "lengths"):
            columns = [db.execute(f"PRAGMA table_info({table})").fetchall() for db in (made, written)]
            assert columns[0] == columns[1][: len(columns[0])], table
        row = written.execute('SELECT year, tags, "is", big, typeof(big) FROM fields WHERE rowid = 2').fetchone()
        assert row == (1992, "[2, null]", 1, 1e30, "real")


def test_words_are_counted_as_the_page_says(tmp_path: Path) -> None:
    index = two_segments(tmp_path / "index", 4)
    postings, lengths, offset = {}, [], 0
    for name in ("segment-000001", "segment-000002"):
        with sqlite3.connect(tmp_path / "index" / name / "documents.sqlite") as database:
            for word, blob in database.execute("SELECT word, occurrences FROM postings ORDER BY word, first"):
                postings.setdefault(word.decode(), Counter()).update((np.frombuffer(blob, "<i4") + offset).tolist())
            rows = database.execute("SELECT lengths FROM lengths ORDER BY first").fetchall()
            lengths += np.frombuffer(b"".join(blob for (blob,) in rows), "<i4").tolist()
        offset = len(lengths)
    num_texts = sum(length > 0 for length in lengths)
    average = sum(lengths) / num_texts
    scores = Counter()
    for word in ("große", "17", "b"):
        df = len(postings[word])
        idf = max(math.log((num_texts - df + 0.5) / (df + 0.5)), 1e-6)
        for document, tf in postings[word].items():
            scores[document] += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * lengths[document] / average))
    ids = [f"a{i}" for i in range(120)] + [f"b{i}" for i in range(40)]
    deleted = {"a3", "a119", "b0", "b17"}
    expected = {ids[document]: score for document, score in scores.items() if ids[document] not in deleted}
    [hits] = index.search_text(["GRÖßE, 17? (B"], 200)
    assert len(expected) > 100 and {hit.id: hit.score for hit in hits} == pytest.approx(expected)


def test_a_writer_made_from_the_page_deletes(tmp_path: Path) -> None:
    """Steps 3 to 5 of the page, and colbertz goes on from there."""
    root = tmp_path / "index"
    index = two_segments(root, 2)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["generation"] += 1
    segment = manifest["segments"][0]
    old, new = segment["deleted"], f"segment-000001/deleted-{manifest['generation']:06d}.npy"
    np.save(root / new, np.sort(np.append(np.load(root / old), 7)).astype("<i4"))
    size, quick = quick_checksum(root / new)
    del manifest["files"][old]
    manifest["files"][new] = {
        "size": size,
        "quick": quick,
        "sha256": hashlib.sha256((root / new).read_bytes()).hexdigest(),
        "whole": None,
    }
    segment |= {"deleted": new, "num_deleted": segment["num_deleted"] + 1}
    fresh = root / "manifest.json.new"
    fresh.write_text(json.dumps(manifest))
    fresh.write_text(fresh.read_text().replace(manifest["sha256"], own_checksum(fresh)))
    os.replace(root / "manifest.json.new", root / "manifest.json")  # noqa: PTH105

    assert index.get("a7").id == "a7"
    assert index.refresh() and len(index) == 155
    index.check()
    with pytest.raises(KeyError, match="a7"):
        index.get("a7")
    index.add(clustered(1, 9), ids=["a7"])
    assert not (root / old).exists()
    assert len(Reader(root).ids) == len(index) == 156


def test_the_examples_on_the_page(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks("use.md", {}, {"lightonai/ColBERT-Zero": str(checkpoint)})
    index = names["index"]
    assert len(index) == 200 + 3 - 2 and len(index.manifest.segments) == 1
    assert index.get("doc5").metadata == {"year": 1905, "lang": "en", "tags": ["a", "b"]}
    assert len(names["searcher"].search("yeast", k=3)) == 3


def test_the_page_has_the_numbers_of_the_code() -> None:
    """Where this fails, a constant has changed that the pages name."""
    page = " ".join(PAGE.split())
    limits = plan.Limits()
    assert limits.longest_query == 1024 and "more than 1,024 tokens" in page
    assert f"at most {limits.all_exact} (or k + k/4 + {plan.EXACT_BEYOND_K})" in page
    assert f"The best {plan.WAVE} or k documents" in page and f"The {limits.base} or 8 k best" in page
    assert (
        f"walks the lists of {plan.BASE_PROBES} cells" in page and f"fewer than {limits.budget_tokens} tokens" in page
    )
    assert plan.TOLERANCE == 1 / 200 and "a two-hundredth of k" in page
    assert refine.TAIL == 1.25 and "a quarter more than the deviation" in page
    assert f"at most {plan.MAX_WITHOUT_PROBES} · `n_full_scores`" in page
    assert f"up to {plan.MAX_WIDENING} times as many" in page
    assert "32 for k > 200 or a query of at most 8 tokens, else 16" in page and "the larger of 2,048 and 60 k" in page
    for k, tokens, probes, documents in (
        (20, 9, 16, 2048),
        (20, 8, 32, 2048),
        (200, 9, 16, 12_000),
        (201, 9, 32, 12_060),
    ):
        assert plan.effort_for(k, SearchOptions(), 999, tokens) == plan.Effort(probes, documents)
    assert nearest.GROUPS_PROBED == 6 and kmeans._GROUPS_OF_CENTROID == 2 and kmeans._ONE_LEVEL == 1024
    assert stream.CHUNK_TOKENS == 262_144 and layout.VERSION == 5 and "This is version 5." in page
    assert segment_writer.FAR_SHARE == 0.5
    assert (compact.MANY_FAR, compact.GROWN, compact.MANY_DELETED, compact.MANY_SEGMENTS) == (0.4, 4, 0.3, 16)
