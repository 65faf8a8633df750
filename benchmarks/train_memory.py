"""The parts of the memory of a training step with cached gradients, computed from a formula and measured.

A separate process makes two steps of the nano model of train.py on the CPU in float32; the optimizer's state exists
from the second step on. Each term of the formula is computed from sizes, except the activations per token, which are
counted in a forward pass. `measured: tensors` is what the formula describes; the rest of the memory belongs to
libraries and to malloc. Writes results/train_memory.json.

`--published` computes the same terms, without a run, for stage 1 of ColBERT-Zero (arXiv 2602.16609) on one GPU in bf16
and writes results/train_memory_published.json. It assumes a fused MaxSim, which keeps only the positions of the maxima.
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path

import common
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from colbertz.models import ColBERT, ModernBertConfig
from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged
from colbertz.training.data import Batch
from colbertz.training.gradcache import default_chunk_bytes
from colbertz.training.run import Run
from colbertz.training.step import backward
from train import DOCUMENT_LENGTH, QUERY_LENGTH, ROOT, SIZES, read_pairs, train_tokenizer, training_run, write

EMBEDDING_DIM = 128
# Bytes.
MB = 1e6


def saved_bytes(model: ColBERT, tokens: Tokens) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # kept alive, so that no later tensor gets the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


def terms(parameters: int, pairs: int, embedded_tokens: int, longest: int, activations: float) -> dict[str, float]:
    """Bytes of a step by purpose.

    Args:
        parameters: number of the model's parameters, which have gradients and two moments in float32.
        pairs: number of queries in the batch, each with one document.
        embedded_tokens: number of tokens of all queries and documents.
        longest: number of tokens of the longest document.
        activations: bytes of the activations of one minibatch.
    """
    # Number of queries that are scored at once, as in gradcache.query_chunks.
    chunk = min(pairs, max(1, default_chunk_bytes(torch.device("cpu")) // pairs // QUERY_LENGTH))
    return {
        "weights, gradients and Adam's state": 16 * parameters,
        "embeddings and their gradients": 8 * EMBEDDING_DIM * embedded_tokens,
        "places of the maxima": chunk * QUERY_LENGTH * pairs * (1 if longest <= 256 else 2),
        "scores and their gradients": 12 * pairs * chunk,
        "activations of a minibatch": activations,
    }


def two_steps(run: Run, batch: Batch) -> None:
    for _ in range(2):
        run.trained.optimizer.zero_grad()
        backward(run.network, run.objective, batch, run.config, run.world)
        run.trained.optimizer.step()


def most_bytes(run: Run, batch: Batch) -> int:
    """The largest total size of the tensors that two steps make, from the profiler's record of each allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        two_steps(run, batch)
    events = record.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(size for _, size in changes))


def measure(directory: Path, batch: int, minibatch_tokens: int) -> None:
    """Print the size of this process before two steps, and by how much they increase it at most; both in MiB."""
    small = training_run(directory, 4, 1000)
    two_steps(small, small.batches[0])  # so that compiling and loading libraries is not measured
    del small
    run = training_run(directory, batch, minibatch_tokens)
    texts = run.batches[0]
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmRSS:")[1].split()[0]) / 1024)
    print(common.peak_megabytes(lambda: two_steps(run, texts)))


def measured(pairs_folder: Path, batch: int, minibatch_tokens: int) -> list[dict[str, object]]:
    """The table for a step of the nano model."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "nano"
        parameters = write(directory, SIZES["nano"], read_pairs(pairs_folder), batch)
        command = [sys.executable, __file__, "step", directory, batch, minibatch_tokens]
        done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
        before, rise = (2**20 * float(size) for size in done.stdout.split()[-2:])
        run = training_run(directory, batch, minibatch_tokens)
    texts = run.batches[0]
    documents = texts.documents
    fitting = int((documents.ids.offsets <= minibatch_tokens).sum()) - 1
    minibatch = documents[: max(1, fitting)]
    per_token = saved_bytes(run.model, minibatch) / len(minibatch.ids.values)
    embedded = len(texts.queries.ids.values) + int(documents.scored.sum())
    longest = int(documents.ids.lengths.max())
    formula = terms(parameters, batch, embedded, longest, per_token * minibatch_tokens)
    rows: list[dict[str, object]] = [{"term": name, "MB": size / MB} for name, size in formula.items()]
    return [
        *rows,
        {"term": "all of these", "MB": sum(formula.values()) / MB},
        {"term": "measured: tensors", "MB": (4 * parameters + most_bytes(run, texts)) / MB},
        {"term": "measured: weights, and what the steps added to the process", "MB": (4 * parameters + rise) / MB},
        {"term": "the process before the steps, without weights", "MB": (before - 4 * parameters) / MB},
        {"term": "measured: peak of the process", "MB": (before + rise) / MB},
        {"term": "activations of a token", "MB": per_token / MB},
    ]


def published() -> list[dict[str, object]]:
    """The table for ColBERT-Zero's stage 1: ModernBERT-base, 16,384 pairs, minibatches of 512 documents."""
    with torch.device("meta"):
        base = ColBERT.from_scratch(ModernBertConfig(), train_tokenizer([], 300))
    config = base.encoder.config
    # The tokenizer has 300 tokens; add the parameters of the other tokens of the vocabulary.
    parameters = sum(p.numel() for p in base.parameters())
    parameters += (ModernBertConfig.vocab_size - config.vocab_size) * config.hidden_size

    def per_token(layers: int) -> float:
        """Bytes per token under autocast, without its bf16 copies of the weights. 192 tokens need no padding."""
        model = ColBERT.from_scratch(ModernBertConfig(num_hidden_layers=layers), train_tokenizer([], 300))
        sizes = []
        for count in (8, 16):
            ids = torch.randint(256, (count * 192,))
            with torch.autocast("cpu", torch.bfloat16):
                sizes.append(saved_bytes(model, Tokens(Ragged.from_lengths(ids, [192] * count))))
        return (sizes[1] - sizes[0]) / (8 * 192)

    # One of three layers sees the whole text, the others a window.
    one, four = per_token(1), per_token(4)
    bytes_per_token = one + (config.num_hidden_layers - 1) * (four - one) / 3
    pairs = 16_384
    minibatch_tokens = 512 * DOCUMENT_LENGTH
    formula = terms(
        parameters, pairs, pairs * (QUERY_LENGTH + DOCUMENT_LENGTH), DOCUMENT_LENGTH, bytes_per_token * minibatch_tokens
    )
    formula["bf16 copies of the weights"] = 2 * parameters
    rows: list[dict[str, object]] = [{"term": name, "GB": size / 1e9} for name, size in formula.items()]
    return [
        *rows,
        {"term": "all of these", "GB": sum(formula.values()) / 1e9},
        {"term": "activations of a token", "GB": bytes_per_token / 1e9},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=ROOT.parent / "shared/data/pairs", help="folder of .jsonl.gz")
    parser.add_argument("--batch", type=int, default=1024, help="pairs")
    parser.add_argument("--minibatch-tokens", type=int, default=6000)
    parser.add_argument("--published", action="store_true", help="ColBERT-Zero's stage 1 instead")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the JSON file")
    args = parser.parse_args()
    common.RESULTS = args.output
    about = common.machine()
    if args.published:
        common.report("train_memory_published", about, published())
        return
    about |= {"pairs": args.batch, "lengths": f"{QUERY_LENGTH}/{DOCUMENT_LENGTH}"}
    about |= {"minibatch tokens": args.minibatch_tokens}
    common.report("train_memory", about, measured(args.pairs, args.batch, args.minibatch_tokens))


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
