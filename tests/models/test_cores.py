"""How encoding on the CPU uses several cores: a batch a core, with the same results, and short texts on one core."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from texts import ORDINARY

from colbertz import ColBERT, Ragged
from colbertz.errors import UserError
from colbertz.kernels.cpu import threads
from colbertz.models import Tokens
from colbertz.models.encoding import batches_by_length


class Recorded(ColBERT):
    """Notes each batch: its tokens, the cores that PyTorch's operators may use for it, and the thread."""

    seen: list[tuple[int, int, str]]

    def embed(self, tokens: Tokens, normalize: bool = True) -> Ragged:
        self.seen.append((len(tokens.ids.values), torch.get_num_threads(), threading.current_thread().name))
        return super().embed(tokens, normalize)


@pytest.fixture
def model(checkpoint: Path) -> Recorded:
    recorded = Recorded.from_pretrained(checkpoint, "cpu")
    assert isinstance(recorded, Recorded)
    recorded.seen = []
    return recorded


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


MANY = [" ".join([*ORDINARY, *ORDINARY][first : first + 9]) for first in range(len(ORDINARY))] * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_for_every_number_of_threads(checkpoint: Path, dtype: torch.dtype) -> None:
    model = ColBERT.from_pretrained(checkpoint, "cpu", dtype)
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3, 5):
            torch.set_num_threads(num_threads)
            results.append([model.encode_document(MANY).values, model.encode_query(ORDINARY[0])])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.usefixtures("three_threads")
def test_each_batch_is_computed_on_one_core(model: Recorded) -> None:
    model.encode_document(MANY)
    assert len(model.seen) > 3
    assert {cores for _, cores, _ in model.seen} == {1}
    assert all(name.startswith("colbertz-encoding") for _, _, name in model.seen)


@pytest.mark.usefixtures("three_threads")
def test_a_short_text_uses_one_core_and_a_long_one_all(model: Recorded) -> None:
    model.encode_query(ORDINARY[0])
    [(num_tokens, cores, name)] = model.seen
    assert num_tokens < 256 and cores == 1 and name.startswith("colbertz-kernels")
    model.seen.clear()
    model.encode(ORDINARY * 5, "document", batch_tokens=10_000)
    [(num_tokens, cores, _)] = model.seen
    assert num_tokens >= 256 and cores == 3


@pytest.mark.usefixtures("three_threads")
def test_the_settings_of_threads_stay_as_they_were(model: Recorded) -> None:
    model.encode_document(MANY)
    model.encode_query(ORDINARY[0])
    seen = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3, 3]


def test_batches_do_not_depend_on_the_number_of_cores_and_fit_a_few_texts() -> None:
    def sizes(num_texts: int) -> list[int]:
        ids = Ragged.from_lengths(torch.zeros(100 * num_texts, dtype=torch.int64), [100] * num_texts)
        return [100 * len(batch) for batch in batches_by_length(ids, torch.device("cpu"), None)]

    assert sizes(3) == [300]
    assert max(sizes(40)) <= 512 and len(sizes(40)) == 8
    assert max(sizes(80)) <= 1000 and len(sizes(80)) == 8
    assert max(sizes(400)) == 2000


@pytest.mark.usefixtures("three_threads")
def test_embeddings_are_those_of_the_callers_autocast(checkpoint: Path) -> None:
    model = ColBERT.from_pretrained(checkpoint, "cpu")
    exact = model.encode_document(MANY).values
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.encode_document(MANY).values
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    assert torch.equal(model.encode_document(MANY).values, exact)


@pytest.mark.usefixtures("three_threads")
def test_an_embedding_that_is_not_finite_is_an_error_and_ends_the_work(model: Recorded) -> None:
    longest = model.tokenizer.documents([max(MANY, key=len)]).ids.values
    with torch.no_grad():
        model.encoder.token_embeddings.weight[longest] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        model.encode_document(MANY * 20)
    begun = len(model.seen)
    assert begun < 20
    time.sleep(0.05)
    assert len(model.seen) == begun


@pytest.mark.usefixtures("three_threads")
def test_jobs_run_in_order_a_few_ahead_and_none_after_the_end() -> None:
    begun: list[int] = []

    def job(number: int) -> int:
        begun.append(number)
        return number

    results = threads.in_order([lambda i=i: job(i) for i in range(100)], threads.ENCODING)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.05)
    assert len(begun) <= 3 + 2 * 3
    results.close()
    so_far = len(begun)
    time.sleep(0.05)
    assert len(begun) == so_far
    assert list(threads.in_order([lambda i=i: job(i) for i in range(50)], threads.ENCODING)) == list(range(50))


_ENCODES_FOR_EVER = r"""
import os
import sys
import torch
from colbertz import ColBERT
torch.set_num_threads(3)
class Model(ColBERT):
    def embed(self, tokens, normalize=True):
        os.write(1, b"begun\n")
        return super().embed(tokens, normalize)

model = Model.from_pretrained(sys.argv[1], "cpu")
texts = ["some words of a text " * 10] * 4_000
try:
    model.encode_document(texts, batch_tokens=64, show_progress=False)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_control_c_ends_encoding_at_once(checkpoint: Path) -> None:
    command = [sys.executable, "-c", _ENCODES_FOR_EVER, str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGINT)
        *batches, last = child.stdout.read().splitlines()
    assert (last, child.returncode) == ("interrupted", 0)
    assert len(batches) < 4_000 / 3
