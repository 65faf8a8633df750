"""A small world for training tests: pairs that share words, a tokenizer for them, and settings that fit."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from colbertz.training.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainingConfig

THINGS = "date file graph node path string token list index model score batch query tensor header message".split()
DEEDS = {"parse": "loads", "find": "search", "count": "total", "copy": "clone", "remove": "discard", "sort": "arrange"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def pairs() -> list[tuple[str, str]]:
    """96 pairs whose verbs differ between query and document, so that there is something to learn."""
    return [(f"{deed} a {thing}", f"def {word} {thing}") for deed, word in DEEDS.items() for thing in THINGS]


def tokenizer() -> Tokenizer:
    """Whole words, split at blanks."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator((t for p in pairs() for t in p), trainers.WordLevelTrainer(special_tokens=SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, made.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    return made


def scored() -> list[dict[str, object]]:
    """Rows of a query with two to four documents, the right one first, and a teacher's scores of them."""
    found = []
    for number, (query, document) in enumerate(pairs()):
        others = [pairs()[(number + 7 * step) % 96][1] for step in range(1, 2 + number % 3)]
        scores = [9.0, *(float(len(set(query.split()) & set(other.split()))) for other in others)]
        found.append({"query": query, "document": [document, *others], "scores": scores})
    return found


def write(folder: Path) -> None:
    """`pairs.jsonl`, `negatives.jsonl`, `scored.jsonl` and `tokenizer.json` in `folder`."""
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
    """Settings of a run of a few seconds on what `write` wrote, to `folder / "run"`."""
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
    }
    return TrainingConfig(**(values | changes))  # type: ignore[arg-type]
