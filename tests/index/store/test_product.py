"""Product quantisation against the reference: coding, decoding, tables, rotation; and whole indexes that use it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz import Index, Ragged
from colbertz.errors import UserError
from colbertz.index.interop.convert import convert
from colbertz.index.store.product import Product, bounds_of
from colbertz.kernels import reference
from colbertz.kernels.cpu import product
from colbertz.kernels.cpu.simd import COLUMNS


@given(st.integers(1, 130), st.data())
@settings(max_examples=40, deadline=None)
def test_parts_cover_the_dimensions(dim: int, data: st.DataObject) -> None:
    num_parts = data.draw(st.integers(1, dim))
    sizes = np.diff(bounds_of(dim, num_parts))
    assert sizes.sum() == dim and sizes.min() >= 1 and sizes.max() - sizes.min() <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.data())
@settings(max_examples=25, deadline=None)
def test_coding_is_that_of_the_reference(dim: int, count: int, seed: int, data: st.DataObject) -> None:
    num_parts = data.draw(st.integers(1, dim))
    generator = torch.Generator().manual_seed(seed)
    tokens, centroids = torch.randn(count, dim, generator=generator), torch.randn(3, dim, generator=generator)
    codewords = torch.randn(256, dim, generator=generator)
    codes = torch.randint(3, (count,), generator=generator)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    codec = Product(codewords, num_parts, rotation)
    packed, inverse_norms, distances = codec.encode(tokens.numpy(), centroids.numpy(), codes.numpy())
    residuals = (tokens - centroids[codes]) @ rotation.T
    expected = reference.encode_product(residuals, codewords, num_parts)
    found = reference.decode_product(torch.from_numpy(packed), codewords)
    torch.testing.assert_close(
        (residuals - found).norm(dim=1), (residuals - reference.decode_product(expected, codewords)).norm(dim=1)
    )
    decoded = np.empty((count, dim), np.float32)
    codec.decode(packed, decoded)
    torch.testing.assert_close(torch.from_numpy(decoded), found @ rotation)
    norms = (centroids[codes] + found @ rotation).norm(dim=1)
    torch.testing.assert_close(torch.from_numpy(inverse_norms), 1 / norms.clamp(min=1e-12), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(distances), residuals.norm(dim=1))


@pytest.mark.parametrize(("dim", "num_parts", "s"), [(8, 8, 1), (24, 5, 32), (96, 16, 33), (128, 16, 70)])
def test_scores_are_those_of_the_reference(dim: int, num_parts: int, s: int) -> None:
    """The integer tables, and their sums over a token's bytes, with the scores of centroids and the norms."""
    generator = torch.Generator().manual_seed(dim)
    codewords, query = torch.randn(256, dim, generator=generator), torch.randn(s, dim, generator=generator)
    num_blocks = -(-s // COLUMNS)
    padded = F.pad(query, (0, 0, 0, num_blocks * COLUMNS - s))
    blocks = padded.view(num_blocks, COLUMNS, dim).transpose(1, 2).contiguous().numpy()
    tables = np.empty((num_blocks, num_parts, 256, COLUMNS), np.int16)
    units = np.empty(num_blocks * COLUMNS, np.float32)
    product.query_tables(blocks, codewords.numpy(), bounds_of(dim, num_parts), tables, units)
    entries = torch.from_numpy(tables.astype(np.int64)).permute(0, 3, 1, 2).reshape(-1, num_parts, 256)[:s]
    exact = reference.product_tables(query, codewords, num_parts)
    steps = torch.from_numpy(units[:s])
    assert ((entries * steps[:, None, None] - exact).abs().amax((1, 2)) <= steps * 0.51).all()
    assert entries.abs().amax(2).sum(1).max() < 1 << 15

    lengths = np.array([1, 4, 7, 0, 3])
    offsets, num_tokens = np.concatenate([[0], np.cumsum(lengths)]), int(lengths.sum())
    packed = torch.randint(256, (num_tokens, num_parts), generator=generator, dtype=torch.uint8)
    codes = torch.randint(5, (num_tokens,), generator=generator)
    fine = torch.randint(-9000, 9000, (num_blocks, 5, COLUMNS), generator=generator).to(torch.int16)
    norms = torch.rand(num_tokens, generator=generator) + 0.5
    scores = np.empty(5, np.float32)
    arrays = (offsets, codes.numpy().astype(np.uint16), packed.numpy(), norms.numpy(), scores)
    product.residual_maxsim(fine.numpy(), np.float32(1e-3), tables, units, s, np.arange(5), 0, 5, *arrays)
    sums = reference.product_sums(entries, packed).float() * steps[:, None]
    of_centroids = fine.permute(0, 2, 1).reshape(-1, 5)[:s][:, codes].float() * 1e-3
    by_token = (of_centroids + sums) * norms
    parts = by_token.split(lengths.tolist(), dim=1)
    expected = torch.stack([part.amax(1).sum() if part.shape[1] else torch.zeros(()) for part in parts])
    torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=1e-4, atol=1e-3)


def clustered(count: int, length: int, seed: int) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    values = directions[torch.randint(40, (count * length,), generator=generator)]
    values = values + torch.randn(values.shape, generator=generator)
    return Ragged.from_lengths(F.normalize(values, dim=1), [length] * count)


@pytest.mark.parametrize("codec", ["pq", "opq"])
def test_an_index_through_its_life(codec: str, tmp_path: Path) -> None:
    path, documents, queries = tmp_path / "index", clustered(700, 6, 1), clustered(5, 4, 2)
    index = Index.build(path, documents, codec=codec, bytes_per_token=7, metadata=[{"n": i} for i in range(700)])
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["version"] == 5 and manifest["coding"] == {"kind": codec, "nbits": 8, "bytes_per_token": 7}
    assert (path / "codec-000001" / "rotation.npy").exists() == (codec == "opq")
    # Every document is a candidate, so what the stages return is what brute force over decoded vectors returns.
    for found, best in zip(index.search(queries, 9, n_full_scores=5000), index.search(queries, 9, exact=True)):
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in best], abs=1e-4)
    index.add(clustered(30, 6, 3), ids=[f"new-{i}" for i in range(30)])
    index.delete(["3", "new-2"])
    index.compact()
    index.check()
    assert len(index) == 728 and index.manifest.residual_coding.kind == codec
    assert [hit.id for hit in index.search(queries, 9, where="n = 5")[0]] == ["5"]
    index.compact(retrain=True)
    assert index.manifest.residual_coding.bytes_per_token == 7
    # The same input and seed give the same files.
    twins = [Index.build(tmp_path / name, documents, codec=codec, bytes_per_token=7) for name in ("one", "two")]
    sums = [{n: f.sha256 for n, f in twin.manifest.files.items() if not n.endswith("sqlite")} for twin in twins]
    assert sums[0] == sums[1]


def test_conversion_codes_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = Index.build(tmp_path / "index", clustered(200, 6, 1), codec="opq", bytes_per_token=12)
    convert(tmp_path / "index", tmp_path / "there", "next-plaid", nbits=8)
    assert "in 12 bytes by opq are coded again of 8 bits" in caplog.text and not any(
        (tmp_path / "there").glob("codec-*")
    )
    convert(tmp_path / "there", tmp_path / "back", "colbertz", codec="pq", bytes_per_token=24)
    there, back = Index.open(tmp_path / "there"), Index.open(tmp_path / "back")
    everything = np.arange(200)
    before, after = index.snapshot.decode(everything).values, there.snapshot.decode(everything).values
    assert float((before * after).sum(1).mean()) > 0.999
    assert float((before * back.snapshot.decode(everything).values).sum(1).mean()) > 0.99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "pqq"}, "codec must be one of scalar, pq, opq"),
        ({"codec": "pq", "nbits": 4}, "has bytes_per_token instead"),
        ({"bytes_per_token": 4}, "has nbits instead"),
        ({"codec": "pq", "bytes_per_token": 25}, "at most the dimension of the embeddings, 24"),
        ({"codec": "pq", "bytes_per_token": 0}, "bytes_per_token"),
    ],
)
def test_what_is_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        Index.build(tmp_path / "index", clustered(20, 4, 1), **options)  # type: ignore[arg-type]
