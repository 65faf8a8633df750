"""Data for training tests: pairs that share words, a tokenizer for them, and settings of a short run on them."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from colbertz.training.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainingConfig

NOUNS = "date file graph node path string token list index model score batch query tensor header message".split()
# Verbs of queries, with those of the documents that answer them.
VERBS = {"parse": "loads", "find": "search", "count": "total", "copy": "clone", "remove": "discard", "sort": "arrange"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def pairs() -> list[tuple[str, str]]:
    """96 pairs of a query and its document. Their verbs differ, and a model has to learn which belong together."""
    return [(f"{verb} a {noun}", f"def {answer} {noun}") for verb, answer in VERBS.items() for noun in NOUNS]


def tokenizer() -> Tokenizer:
    """A tokenizer of whole words, split at blanks."""
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(
        (text for pair in pairs() for text in pair), trainers.WordLevelTrainer(special_tokens=SPECIAL)
    )
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, words.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    )
    return words


def scored() -> list[dict[str, object]]:
    """Rows of a query with two to four documents, the right one first, and a teacher's scores of them."""
    rows: list[dict[str, object]] = []
    for row_idx, (query, document) in enumerate(pairs()):
        others = [pairs()[(row_idx + 7 * step) % 96][1] for step in range(1, 2 + row_idx % 3)]
        scores = [9.0, *(float(len(set(query.split()) & set(other.split()))) for other in others)]
        rows.append({"query": query, "document": [document, *others], "scores": scores})
    return rows


def write(folder: Path) -> None:
    """Write `pairs.jsonl`, `negatives.jsonl`, `scored.jsonl` and `tokenizer.json` to `folder`."""
    rows = {
        "pairs": [{"query": query, "document": document} for query, document in pairs()],
        "negatives": [
            {"query": row["query"], "document": row["document"][0], "negatives": row["document"][1:]}
            for row in scored()
        ],
        "scored": scored(),
    }
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    tokenizer().save(str(folder / "tokenizer.json"))


def settings(folder: Path, **changes: object) -> TrainingConfig:
    """Settings of a run of a few seconds on the files of `write`, with the output `folder / "run"`."""
    values: dict[str, object] = {
        "output": str(folder / "run"),
        "model": ModelConfig(
            tokenizer=str(folder / "tokenizer.json"),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            embedding_dim=16,
            query_length=12,
            document_length=12,
            do_query_expansion=False,
        ),
        "data": DataConfig(train=str(folder / "pairs.jsonl")),
        "eval": EvalConfig(pairs=str(folder / "pairs.jsonl")),
        "optim": OptimConfig(lr=1e-2),
        "batch_size": 16,
        "max_steps": 30,
        "bf16": False,  # the same numbers on every processor
    }
    return TrainingConfig(**(values | changes))  # type: ignore[arg-type]
