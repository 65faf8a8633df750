"""A training step with cached contrastive gradients: ours, PyLate's and sentence-transformers', on the CPU.

Each contestant runs in a separate process and environment. It reads the same random checkpoint and the same pairs,
tokenises them as its trainer does, and makes a step: forward, backward and AdamW. The contestants take turns, so that
other load on the machine affects all of them. Their losses of the first step, which has no dropout, must agree.
Contestants whose environment is missing are left out. Writes results/train_<bfloat16 instructions>.json.

colbertz computes in the type that `bf16: null` chooses, and in float32; PyLate in float32, its default, and under
autocast to bfloat16. The BERTs have the dropout of 0.1 that published checkpoints have, the ModernBERT has none.

`peak MB` is the largest resident size of the whole process, libraries and weights included. `loader pairs/s` is the
speed of our data loader alone; it must be far higher than the speed of the steps, or the model waits for data.
"""

import argparse
import gzip
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import common
import torch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The libraries are imported where they are used, so the memory of a contestant does not include those of the others.

ROOT = Path(__file__).parents[1]
# Tokens, with the prompts of ColBERT-Zero.
QUERY_LENGTH = 39
DOCUMENT_LENGTH = 187
# Texts.
MINIBATCH = 32
# The scores of an untrained model differ little; a low temperature makes differences between implementations visible.
TEMPERATURE = 0.05
RATE = 1e-5


@dataclass(frozen=True)
class Size:
    """Sizes of an encoder, whose embeddings have 128 dimensions."""

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocabulary: int


SIZES = {
    "nano": Size("modernbert", 6, 128, 192, 2, 16_384),  # 3 M parameters
    "MiniLM-L6": Size("bert", 6, 384, 1536, 12, 30_522),  # 23 M
    "33M": Size("bert", 12, 384, 1536, 12, 30_522),  # 33 M, as answerai-colbert-small
}


def read_pairs(directory: Path) -> list[dict[str, str]]:
    """The pairs of all .jsonl.gz files in a directory."""
    pairs = []
    for path in sorted(directory.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            pairs += [{side: row[side] for side in ("query", "document")} for row in map(json.loads, lines)]
    if not pairs:
        raise SystemExit(f"there are no .jsonl.gz files in {directory}; name their directory with --pairs")
    return pairs


def spaced(pairs: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """`count` pairs at equal distances, so that they come from all of the files."""
    return pairs[:: max(1, len(pairs) // count)][:count]


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> "Tokenizer":
    """Byte-level BPE with ModernBERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    special = [f"[{name}]" for name in ("UNK", "CLS", "SEP", "PAD", "MASK")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def write(directory: Path, size: Size, pairs: list[dict[str, str]], batch: int) -> int:
    """A random checkpoint in PyLate's layout and one batch in `pairs.jsonl`; returns the number of parameters."""
    from colbertz.models import ColBERT
    from colbertz.models.encoders.base import family_of

    texts = [text for pair in spaced(pairs, 30_000) for text in pair.values()]
    sizes = family_of(size.family).config.from_dict(
        {
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
        }
    )
    lengths = {"query_length": QUERY_LENGTH, "document_length": DOCUMENT_LENGTH}
    model = ColBERT.from_scratch(sizes, train_tokenizer(texts, size.vocabulary), **lengths)
    model.save_pretrained(directory)
    (directory / "pairs.jsonl").write_text("\n".join(map(json.dumps, spaced(pairs, batch))), encoding="utf-8")
    return sum(p.numel() for p in model.parameters())


def training_run(directory: Path, batch: int, minibatch_tokens: int, bf16: bool | None = None) -> Any:
    """Our training run on the files of `write`; every step trains on the same pairs."""
    from colbertz.training.config import DataConfig, LossConfig, ModelConfig, OptimConfig, TrainingConfig
    from colbertz.training.distributed import World
    from colbertz.training.run import prepare

    config = TrainingConfig(
        output=str(directory / "run"),
        model=ModelConfig(init=str(directory)),
        data=DataConfig(str(directory / "pairs.jsonl")),
        loss=LossConfig(temperature=TEMPERATURE, mask_duplicates=False),
        optim=OptimConfig(lr=RATE),
        batch_size=batch,
        minibatch_tokens=minibatch_tokens,
        max_steps=1000,
        bf16=bf16,
    )
    return prepare(config, World(0, 1, torch.device("cpu")))


# -- contestants -----------------------------------------------------------------------------------------------------

# A function that tokenises the batch, one that makes a step with the result and returns the loss, and the network.
Contestant = tuple[Callable[[], Any], Callable[[Any], float], torch.nn.Module]


def colbertz(directory: Path, batch: int, bf16: bool | None = None) -> Contestant:
    from colbertz.training.memory import keep_freed_memory
    from colbertz.training.step import backward

    keep_freed_memory()  # as train.py does
    run = training_run(directory, batch, MINIBATCH * DOCUMENT_LENGTH, bf16)

    def step(tokens: Any) -> float:
        run.trained.optimizer.zero_grad()
        measured = backward(run.network, run.objective, tokens, run.config, run.world)
        run.trained.optimizer.step()
        return measured[0].item()

    return lambda: run.batches[0], step, run.network


def pylate(directory: Path, batch: int, bf16: bool = False) -> Contestant:
    from pylate.losses import CachedContrastive
    from pylate.models import ColBERT
    from pylate.utils import ColBERTCollator

    model = ColBERT(str(directory), device="cpu", local_files_only=True)
    loss = CachedContrastive(model, mini_batch_size=MINIBATCH, temperature=TEMPERATURE)
    return _peer(model, loss, ColBERTCollator(model.tokenize, prompts=model.prompts), directory, bf16)


def sentence_transformers(directory: Path, batch: int) -> Contestant:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.data_collator import MultiVectorEncoderDataCollator
    from sentence_transformers.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss

    model = MultiVectorEncoder(str(directory), device="cpu", local_files_only=True)
    loss = CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=MINIBATCH, scale=1 / TEMPERATURE)
    collator = MultiVectorEncoderDataCollator(preprocess_fn=model.preprocess, prompts=model.prompts)
    return _peer(model, loss, collator, directory)


def _peer(model: Any, loss: Any, collator: Any, directory: Path, bf16: bool = False) -> Contestant:
    pairs = [json.loads(line) for line in (directory / "pairs.jsonl").read_text("utf-8").splitlines()]
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=RATE, fused=True)

    def tokenise() -> list[dict[str, Any]]:
        columns = collator(pairs)
        sides = ("query_", "document_")
        return [{k.removeprefix(side): v for k, v in columns.items() if k.startswith(side)} for side in sides]

    def step(features: list[dict[str, Any]]) -> float:
        optimizer.zero_grad()
        # The backward pass computes the forward pass again, so it is under autocast too.
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(features)
            value.backward()
        optimizer.step()
        return value.item()

    return tokenise, step, model


CONTESTANTS = {
    "colbertz": colbertz,
    "colbertz float32": partial(colbertz, bf16=False),
    "pylate": pylate,
    "pylate bfloat16": partial(pylate, bf16=True),
    "sentence-transformers": sentence_transformers,
}


def contest(name: str, directory: Path, batch: int, out: IO[str]) -> None:
    """Make a step for each line on stdin, and write its measurements to `out` as a line of JSON."""
    tokenise, step, network = CONTESTANTS[name](directory, batch)
    network.eval()  # no dropout in the first step
    for _ in sys.stdin:
        start = time.perf_counter()
        tokens = tokenise()
        between = time.perf_counter()
        loss = step(tokens)
        end = time.perf_counter()
        # Not `ru_maxrss`: a process inherits that from the process that started it.
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        row = {"step s": end - between, "tokenising s": between - start, "peak MB": peak, "loss of first step": loss}
        print(json.dumps(row | {"version": importlib.metadata.version(name.split()[0])}), file=out, flush=True)
        network.train()


# -- the contest -----------------------------------------------------------------------------------------------------


def start(python: str, *args: object) -> subprocess.Popen[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [python, __file__, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def measure_step(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Have a contestant make one step, and return its measurements."""
    assert process.stdin is not None and process.stdout is not None
    print("step", file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended without an answer; see its error above")
    row: dict[str, Any] = json.loads(answer)
    return row


def measure(pythons: dict[str, str], directory: Path, batch: int, steps: int) -> dict[str, dict[str, Any]]:
    """The medians of each contestant over `steps`, after a first step in which the losses are compared."""
    processes = {name: start(python, name, directory, batch) for name, python in pythons.items()}
    try:
        first = {name: measure_step(process) for name, process in processes.items()}
        losses = {name: row["loss of first step"] for name, row in first.items()}
        in_half = {name for name in losses if name.endswith("bfloat16") or name == "colbertz"}
        if not all(
            abs(loss / losses["colbertz float32"] - 1) < (0.02 if name in in_half else 1e-4)
            for name, loss in losses.items()
        ):
            raise SystemExit(f"the contestants do not compute the same, their losses are {losses}")
        rounds = [{name: measure_step(process) for name, process in processes.items()} for _ in range(steps)]
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    timed = ("step s", "tokenising s")
    return {
        name: row
        | {key: statistics.median(answers[name][key] for answers in rounds) for key in timed}
        | {"peak MB": rounds[-1][name]["peak MB"]}
        for name, row in first.items()
    }


def loader_rate(directory: Path, batch: int, num_workers: int, num_batches: int = 16) -> float:
    """Pairs per second of our data loader while nothing else runs, without the time to its first batch."""
    from colbertz.training.data import loader

    run = training_run(directory, batch, 0)
    batches = iter(loader(run.batches, 0, num_workers))
    next(batches)
    started = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    return batch * num_batches / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=ROOT.parent / "shared/data/pairs", help="folder of .jsonl.gz")
    parser.add_argument("--pylate-python", default=str(ROOT / ".venv-pylate/bin/python"))
    parser.add_argument("--st-python", help="where sentence-transformers 6 is; without it that is left out")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch", type=int, default=256, help="pairs")
    parser.add_argument("--steps", type=int, default=5, help="timed, after one to warm up")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the JSON file")
    args = parser.parse_args()
    common.RESULTS = args.output
    pythons = {"colbertz": sys.executable, "colbertz float32": sys.executable}
    if Path(args.pylate_python).is_file():
        pythons |= {"pylate": args.pylate_python, "pylate bfloat16": args.pylate_python}
    if args.st_python:
        pythons["sentence-transformers"] = args.st_python

    from colbertz.models.dtypes import fast_bf16

    about = common.machine() | {"bfloat16 instructions": fast_bf16() or "none"}
    about |= {"batch": args.batch, "minibatch texts": MINIBATCH, "lengths": f"{QUERY_LENGTH}/{DOCUMENT_LENGTH}"}
    pairs = read_pairs(args.pairs)
    rows = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            parameters = write(Path(folder) / size, SIZES[size], pairs, args.batch)
            measured = measure(pythons, Path(folder) / size, args.batch, args.steps)
            loaders = {"loader pairs/s": 0, "with 1 worker": 1}
            rates = {key: round(loader_rate(Path(folder) / size, args.batch, n)) for key, n in loaders.items()}
        for name, row in measured.items():
            about[name.split()[0]] = row.pop("version")
            rows.append(
                {"size": size, "parameters": f"{parameters / 1e6:.1f} M", "contestant": name, **row}
                | {"pairs/s": args.batch / row["step s"], "times ours": row["step s"] / measured["colbertz"]["step s"]}
                | {key: rate if name == "colbertz" else "" for key, rate in rates.items()}
            )
    common.report(f"train_{fast_bf16() or 'none'}", about, rows)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CONTESTANTS:
        answers = sys.stdout
        with redirect_stdout(sys.stderr):  # what libraries print must not be read as an answer
            contest(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), answers)
    else:
        main()
