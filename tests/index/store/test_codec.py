"""The codec against the reference: packing, decoding, what is lost; k-means and the search in two levels."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colbertz.index.store import codec as codecs
from colbertz.index.store import kmeans
from colbertz.index.store.codec import Codec
from colbertz.index.store.coding import Coding
from colbertz.index.store.encoded import unit_rows
from colbertz.index.store.layout import NBITS
from colbertz.index.store.scalar import Scalar
from colbertz.kernels import reference


def directions(count: int, dim: int, seed: int = 0) -> Tensor:
    values = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=1)


def clustered(count: int, dim: int, num_clusters: int, seed: int = 0, noise: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = directions(num_clusters, dim, seed)[torch.randint(num_clusters, (count,), generator=generator)]
    values = centers + noise / dim**0.5 * torch.randn(count, dim, generator=generator)
    return torch.nn.functional.normalize(values, dim=1)


# -- packing -------------------------------------------------------------------------------------------------------


def test_packing_by_hand() -> None:
    """Bucket 1 of 4 bits is 1000, bucket 14 is 0111; of 2 bits, 1 is 10; bytes are filled from the highest bit."""
    assert reference.pack_buckets(torch.tensor([[1, 14, 0, 3]]), 4).tolist() == [[0b1000_0111, 0b0000_1100]]
    assert reference.pack_buckets(torch.tensor([[1, 2, 3, 0]]), 2).tolist() == [[0b10_01_11_00]]
    assert reference.pack_buckets(torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]]), 1).tolist() == [[0b1000_0000]]
    assert reference.pack_buckets(torch.tensor([[1]]), 8).tolist() == [[0b1000_0000]]


@st.composite
def codings(draw: st.DrawFn) -> tuple[Codec, Tensor, Tensor]:
    """A codec of one level, tokens, and their nearest centroids; some residuals lie on a cutoff or are zero."""
    nbits, dim = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([8, 16, 24, 96, 128]))
    num_tokens, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    # Multiples of 1/64, so that sums are exact and a value can be on a cutoff.
    centroids = torch.randint(-32, 33, (draw(st.integers(1, 9)), dim), generator=generator) / 64
    cutoffs = (torch.randint(-16, 17, ((1 << nbits) - 1,), generator=generator) / 64).sort().values
    weights = torch.randn(1 << nbits, generator=generator).sort().values
    codec = Codec(centroids, Scalar(cutoffs, weights), torch.zeros(dim), 1.0)
    residuals = torch.randint(-20, 21, (num_tokens, dim), generator=generator) / 64
    residuals[torch.rand(num_tokens, generator=generator) < 0.2] = 0
    tokens = centroids[torch.randint(len(centroids), (num_tokens,), generator=generator)] + residuals
    return codec, tokens, (tokens @ centroids.T).argmax(1)


@given(codings())
@settings(max_examples=60, deadline=None)
def test_coding_is_that_of_the_reference(coding: tuple[Codec, Tensor, Tensor]) -> None:
    codec, tokens, nearest = coding
    encoded, distances = codec.encode(tokens)
    codes = torch.from_numpy(encoded.codes.astype(np.int64))
    scores = tokens @ codec.centroids.T
    torch.testing.assert_close(scores.gather(1, codes[:, None]), scores.gather(1, nearest[:, None]))
    # A token is coded at unit length, and its norm is part of its inverse norm.
    units, lengths = unit_rows(tokens)
    lengths = torch.ones(len(tokens)) if lengths is None else lengths
    torch.testing.assert_close(lengths, tokens.norm(dim=1), atol=1e-3, rtol=0)
    expected = reference.encode_residuals(units, codec.centroids, codes, codec.quantiser.cutoffs)
    assert torch.equal(torch.from_numpy(encoded.residuals), expected)
    torch.testing.assert_close(torch.from_numpy(distances), (units - codec.centroids[codes]).norm(dim=1))
    vectors = reference.decode_residuals(codec.centroids, codes, expected, codec.quantiser.weights)
    norms = 1 / vectors.norm(dim=1)
    torch.testing.assert_close(torch.from_numpy(encoded.inverse_norms), norms * lengths)
    torch.testing.assert_close(torch.from_numpy(codec.inverse_norms(encoded.codes, encoded.residuals)), norms)
    decoded = codec.decode(encoded.codes, encoded.residuals, encoded.inverse_norms)
    torch.testing.assert_close(decoded, vectors * (norms * lengths)[:, None])


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 5), st.integers(0, 2**16))
def test_unpacking_undoes_packing(nbits: int, num_bytes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    buckets = torch.randint(1 << nbits, (3, num_bytes * 8 // nbits), generator=generator)
    assert torch.equal(reference.unpack_buckets(reference.pack_buckets(buckets, nbits), nbits), buckets)


# -- what is lost --------------------------------------------------------------------------------------------------


def test_more_bits_lose_less() -> None:
    tokens = clustered(20_000, 64, 300)
    errors = []
    for nbits in NBITS:
        codec = codecs.train(tokens[:10_000], len(tokens), Coding(nbits=nbits), seed=0)
        encoded, distances = codec.encode(tokens)
        decoded = codec.decode(encoded.codes, encoded.residuals, encoded.inverse_norms)
        errors.append(float((1 - (decoded * tokens).sum(1)).mean()))
        # Of tokens that k-means has not seen: its own are nearer.
        assert np.mean(distances[10_000:] > codec.cluster_threshold) == pytest.approx(0.25, abs=0.05)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.1
    assert all(b < a / 2 for a, b in pairwise(errors))


@pytest.mark.parametrize("exact", [False, True])
def test_a_codec_on_disk(exact: bool, tmp_path: Path) -> None:
    codec = codecs.train(directions(500, 16), 500, Coding(), seed=0)
    if exact:  # as from another program, which has float32
        codec = dataclasses.replace(codec, centroids=codec.centroids + 1e-5)
    codec.save(tmp_path)
    loaded = Codec.load(tmp_path, Coding())
    for name in ("centroids", "avg_residual", "cluster_threshold"):
        torch.testing.assert_close(getattr(loaded, name), getattr(codec, name), rtol=0, atol=0)
    torch.testing.assert_close(loaded.quantiser.arrays(), codec.quantiser.arrays(), rtol=0, atol=0)
    assert np.load(tmp_path / "centroids.npy").dtype == (np.float32 if exact else np.float16)
    np.save(tmp_path / "bucket_weights.npy", np.zeros(15, np.float32))
    with pytest.raises(ValueError, match=r"it has .15,. bucket cutoffs and .15,. weights"):
        Codec.load(tmp_path, Coding())


def test_extended() -> None:
    codec = codecs.train(clustered(2000, 32, 10), 2000, Coding(), seed=0)
    far = clustered(1000, 32, 10, seed=1)
    extended = codec.extended(far, tokens_per_centroid=50, code_dtype=np.dtype(np.uint16))
    assert torch.equal(extended.centroids[: len(codec.centroids)], codec.centroids)
    assert len(extended.centroids) == len(codec.centroids) + 20
    assert codec.encode(far)[1].mean() > 2 * extended.encode(far)[1].mean()
    assert len(codec.extended(far[:3], 50, np.dtype(np.uint16)).centroids) == len(codec.centroids) + 1


def test_extending_stops_where_the_numbers_end() -> None:
    """With 65,536 centroids already, the clustering into none wrote outside of its arrays."""
    codec = Codec(directions(1 << 16, 8), Scalar(torch.zeros(1), torch.tensor([-0.1, 0.1])), torch.zeros(8), 0.0)
    far = directions(100, 8, seed=1)
    assert codec.extended(far, 1, np.dtype(np.uint16)) is codec
    almost = dataclasses.replace(codec, centroids=codec.centroids[:-3])
    assert len(almost.extended(far, 1, np.dtype(np.uint16)).centroids) == 1 << 16
    assert len(codec.extended(far, 50, np.dtype(np.uint32)).centroids) == (1 << 16) + 2


# -- k-means -------------------------------------------------------------------------------------------------------


def test_the_nearest_of_a_few_is_exact_but_for_three_that_are_nearly_as_near() -> None:
    """The float32 check decides between the best two in integers (tests/kernels/test_nearest_cpu.py)."""
    tokens, centroids = directions(5000, 24), directions(500, 24, seed=1)
    scores = tokens @ centroids.T
    found = torch.from_numpy(kmeans.Cells.of(centroids).nearest(tokens)).long()
    loss = scores.max(1).values - scores.gather(1, found[:, None])[:, 0]
    assert float((loss < 1e-6).float().mean()) > 0.995
    assert float(loss.max()) < 0.02


@pytest.mark.parametrize(("noise", "share", "loss"), [(0.5, 0.97, 0.002), (4.0, 0.85, 0.02)])
def test_the_nearest_of_many_is_nearly_exact(noise: float, share: float, loss: float) -> None:
    """With clusters, and with hardly any."""
    tokens = clustered(20_000, 64, 1500, noise=noise)
    centroids = kmeans.train(tokens, 2048, seed=0)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(2048))
    scores = tokens @ centroids.T
    found = torch.from_numpy(kmeans.Cells.of(centroids).nearest(tokens)).long()
    got, best = scores.gather(1, found[:, None])[:, 0], scores.max(1).values
    assert float((got >= best - 1e-5).float().mean()) > share
    assert float((best - got).mean()) < loss


@pytest.mark.parametrize("num_centroids", [100, 1024])
def test_the_same_seed_gives_the_same_bits(num_centroids: int) -> None:
    tokens = clustered(6000, 32, 200)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            centroids = kmeans.train(tokens, num_centroids, seed=3)
            found.append((centroids, kmeans.Cells.of(centroids).nearest(tokens)))
    finally:
        torch.set_num_threads(threads)
    for centroids, nearest in found[1:]:
        assert torch.equal(centroids, found[0][0])
        assert np.array_equal(nearest, found[0][1])
    assert not torch.equal(kmeans.train(tokens, num_centroids, seed=4), found[0][0])


@pytest.mark.parametrize(
    "tokens",
    [
        directions(1, 16),
        directions(3, 16),
        directions(1, 16).expand(7000, 16).contiguous(),
        directions(3, 16)[torch.arange(7000) % 3],
        torch.cat([directions(1, 16).expand(6500, 16), directions(500, 16, seed=1)]),
        torch.zeros(50, 16),
    ],
    ids=["one", "three", "equal", "three different", "mostly equal", "zero"],
)
@pytest.mark.parametrize("nbits", [1, 4, 8])
def test_degenerate_collections(tokens: Tensor, nbits: int) -> None:
    """Fewer tokens than centroids, duplicates, groups of centroids that stay empty: all is coded, and well."""
    codec = codecs.train(tokens, len(tokens), Coding(nbits=nbits), seed=0)
    assert len(codec.centroids) <= len(tokens)
    assert bool(codec.centroids.isfinite().all())
    encoded, _ = codec.encode(tokens)
    assert int(encoded.codes.max()) < len(codec.centroids)
    decoded = codec.decode(encoded.codes, encoded.residuals, encoded.inverse_norms)
    assert bool(decoded.isfinite().all())
    if bool(tokens.any()):
        assert float((decoded * tokens).sum(1).mean()) > 0.99


def test_the_sizes_of_a_codec() -> None:
    """The values are those of PLAID for MS MARCO's 8.8 M passages, and of small collections."""
    assert codecs.num_centroids(600_000_000, 4_000_000) == 1 << 18
    assert codecs.num_centroids(1, 1) == 1
    assert codecs.num_centroids(100, 95) == 95
    assert codecs.sample_size(10) == 10
    assert codecs.sample_size(600_000_000) == (1 << 22) + 50_000
