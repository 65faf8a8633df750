"""The loss of 100 steps in bfloat16 beside that of two float32 runs with other seeds, on the CPU.

All runs start from the same checkpoint, a random BERT with its dropout of 0.1, and see the same pairs; the seeds change
the order of the pairs and the dropout. In each of ten windows of ten steps the mean loss of the bfloat16 run, which has
the first run's seed, is compared with the float32 runs. Writes results/train_curves.json.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import common
import torch

from colbertz.models import ColBERT
from colbertz.models.encoders.bert import BertConfig
from colbertz.training.config import DataConfig, LossConfig, ModelConfig, OptimConfig, TrainingConfig
from colbertz.training.distributed import World
from colbertz.training.run import prepare
from colbertz.training.step import gradients
from train import ROOT, read_pairs, spaced, train_tokenizer

STEPS = 100
WINDOW = 10
BATCH = 16


def losses(folder: Path, seed: int, bf16: bool) -> list[float]:
    """The loss of each step of a run."""
    config = TrainingConfig(
        output=str(folder / "run"),
        model=ModelConfig(init=str(folder / "model")),
        data=DataConfig(str(folder / "pairs.jsonl")),
        loss=LossConfig(temperature=0.5),
        optim=OptimConfig(lr=5e-4),
        batch_size=BATCH,
        max_steps=STEPS,
        seed=seed,
        bf16=bf16,
    )
    run = prepare(config, World(0, 1, torch.device("cpu")))
    measured = []
    for step in range(STEPS):
        run.trained.optimizer.zero_grad()
        measured.append(gradients(run, run.batches[step])[0].item())
        run.trained.optimizer.step()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, default=ROOT.parent / "shared/data/pairs", help="folder of .jsonl.gz")
    args = parser.parse_args()
    about = common.machine() | {"steps": STEPS, "batch": BATCH}
    pairs = spaced(read_pairs(args.pairs), STEPS * BATCH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
        texts = [text for pair in pairs for text in pair.values()]
        sizes = BertConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2)
        ColBERT.from_scratch(sizes, train_tokenizer(texts, 4096), query_length=16, document_length=32).save_pretrained(
            folder / "model"
        )
        runs = {
            "float32, seed 0": losses(folder, 0, False),
            "float32, seed 1": losses(folder, 1, False),
            "bfloat16, seed 0": losses(folder, 0, True),
        }
    rows = []
    for first in range(0, STEPS, WINDOW):
        means = {name: statistics.mean(values[first : first + WINDOW]) for name, values in runs.items()}
        one, other, half = means.values()
        rows.append(
            {"steps": f"{first + 1}-{first + WINDOW}", **means}
            | {"between seeds": abs(one - other), "bfloat16 from float32": abs(half - one)}
        )
    common.report("train_curves", about, rows)


if __name__ == "__main__":
    main()
