"""Reading pairs, and the order in which they are trained on."""

import gzip
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import pairs, tokenizer

from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer
from colbertz.training.data import Batch, BatchSampler, Collate, Pairs, loader, read_pairs

sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 30), st.integers(1, 12))


@given(sizes, st.integers(0, 3))
def test_an_epoch_holds_every_pair_once_but_for_an_incomplete_batch(size: tuple[int, int, int, int], seed: int) -> None:
    world_size, share, extra, _ = size
    batch_size = world_size * share
    num_pairs = batch_size + extra
    steps = num_pairs // batch_size
    epochs = []
    samplers = [BatchSampler(num_pairs, batch_size, 2 * steps, seed, rank, world_size) for rank in range(world_size)]
    for step, batches in enumerate(zip(*samplers)):
        assert all(len(batch) == share for batch in batches)
        if step % steps == 0:
            epochs.append([])
        epochs[-1] += [number for batch in batches for number in batch]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == steps * batch_size
        assert set(epoch) <= set(range(num_pairs))


@given(sizes, st.integers(0, 3))
def test_processes_share_the_batches_that_one_process_would_have(size: tuple[int, int, int, int], seed: int) -> None:
    world_size, share, extra, steps = size
    batch_size = world_size * share
    alone = BatchSampler(batch_size + extra, batch_size, steps, seed)
    together = [BatchSampler(batch_size + extra, batch_size, steps, seed, r, world_size) for r in range(world_size)]
    assert list(alone) == [[number for part in parts for number in part] for parts in zip(*together)]


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    first = list(BatchSampler(100, 10, 20, seed=1))
    assert first == list(BatchSampler(100, 10, 20, seed=1))
    assert first[:10] != first[10:]
    assert first != list(BatchSampler(100, 10, 20, seed=2))


@pytest.mark.parametrize(("arguments", "named"), [((10, 8, 1, 0, 0, 3), "8.*3 processes"), ((10, 11, 1), "10.*11")])
def test_batches_that_cannot_be_made_are_refused(arguments: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BatchSampler(*arguments)


def test_reads_plain_and_compressed_files_alike(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({"q": query, "d": document, "more": 1}) for query, document in pairs())
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    plain = read_pairs(tmp_path / "a.jsonl", "q", "d")
    assert plain == read_pairs(tmp_path / "a.jsonl.gz", "q", "d")
    assert [plain[i] for i in range(len(plain))] == pairs()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"query": "a"}', "b.jsonl:2 has no key 'document', only \\['query'\\]"),
        ('{"query": "a", "document": " "}', "b.jsonl:2 has ' ' under 'document'"),
        ('{"query": 3, "document": "b"}', "b.jsonl:2 has 3 under 'query'"),
        ('{"query": ', "b.jsonl:2 is not JSON"),
        ("[]", "b.jsonl:2 must be a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "b.jsonl").write_text('{"query": "a", "document": "b"}\n' + line)
    with pytest.raises(ValueError, match=named):
        read_pairs(tmp_path / "b.jsonl")


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty.jsonl holds no pairs"):
        read_pairs(tmp_path / "empty.jsonl")


def wrapped() -> ColBERTTokenizer:
    return ColBERTTokenizer(tokenizer(), ColBERTSettings(), {"mask_token": "[MASK]", "unk_token": "[UNK]"})


def texts(batch: Batch) -> list[str]:
    return [wrapped().backend.decode(document.tolist()) for document in batch.documents.ids]


def test_loader_tokenises_both_sides_in_the_sampler_s_order() -> None:
    data = Pairs([q for q, _ in pairs()], [d for _, d in pairs()])
    sampler = BatchSampler(len(data), 8, 3)
    for batch, numbers in zip(loader(data, sampler, wrapped()), sampler, strict=True):
        assert len(batch) == 8
        assert texts(batch) == [f"[D]  {data.documents[n]}" for n in numbers]
        assert batch.queries.ids.lengths.tolist() == [32] * 8


def test_what_loader_processes_get_survives_pickling() -> None:
    """Loader processes are spawned: they see what pickle makes of dataset and collate function."""
    collate = pickle.loads(pickle.dumps(Collate(wrapped())))  # noqa: S301  our own bytes
    batch = collate(pairs()[:4])
    assert texts(batch) == texts(Collate(wrapped())(pairs()[:4]))
