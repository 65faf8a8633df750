"""A small world for the nano recipe: pairs, two collections, and the settings of small stages."""

from pathlib import Path

from json_lines import write_rows

STAGE = """
output: unused
model: {{{start} query_prompt: "search_query: ", document_prompt: "search_document: ", query_length: 24,
  document_length: 40}}
data: {{train: unused}}
loss: {{kind: {kind}}}
optim: {{lr: 1e-3}}
batch_size: 8
max_steps: 3
log_every: 1
{more}
"""
SIZES = "tokenizer: x.json, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, embedding_dim: 16, "
SIZES += "do_query_expansion: false, "
BOXES = [
    f"the {colour} {thing}" for colour in ("red", "green", "blue", "grey") for thing in ("box", "cup", "hat", "jug")
]


def write_collection(folder: Path, questions: dict[str, list[int]], documents: list[str]) -> None:
    """Write a BEIR directory: the questions of each split, given by the indices of the documents that answer them."""
    write_rows(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)])
    queries = [(split, i) for split, doc_indices in questions.items() for i in doc_indices]
    write_rows(
        folder / "queries.jsonl",
        [{"_id": f"{split}{i}", "text": f"{split}: where is {BOXES[i]}"} for split, i in queries],
    )
    (folder / "qrels").mkdir()
    for split, doc_indices in questions.items():
        rows = [f"{split}{i}\td{i}\t1" for i in doc_indices]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")


def make_world(folder: Path) -> Path:
    """Pairs, one of which is judged; a collection with training questions; one of long documents; small stages."""
    pairs = [{"query": f"find {box}", "document": f"{box} stands on shelf {i}"} for i, box in enumerate(BOXES)]
    answers = [f"somebody put {box} into room {i}" for i, box in enumerate(BOXES)]
    pairs.append({"query": "Dev:  where is the RED box", "document": "a question that is judged"})
    pairs.append({"query": "some title", "document": answers[3]})
    write_rows(folder / "pairs" / "shelves.jsonl.gz", pairs)
    write_rows(folder / "pairs" / "more.jsonl", pairs[:8])
    write_collection(folder / "rooms", {"train": list(range(4, 12)), "dev": [0, 3]}, answers)
    talk = [
        " ".join(f"word{i} and on" for _ in range(200)) + f" at last {box} " + "so long " * 300
        for i, box in enumerate(BOXES)
    ]
    write_collection(folder / "talks", {"train": [5, 6], "dev": [1]}, talk)
    (folder / "configs").mkdir()
    for name, kind, start, more in (
        ("mlm", "mlm", SIZES, ""),
        ("unsupervised", "contrastive", SIZES, "minibatch_tokens: 64"),
        ("supervised", "contrastive", "init: x, ", ""),
        ("distillation", "distillation", "init: x, ", ""),
    ):
        (folder / "configs" / f"{name}.yaml").write_text(STAGE.format(start=start, kind=kind, more=more))
    return folder


def command(world: Path, *more: str) -> list[str]:
    places = {"--pairs": "pairs", "--out": "run", "--configs": "configs"}
    words = [word for option, name in places.items() for word in (option, str(world / name))]
    return ["nano", *words, "--no-python", "--collections", str(world / "rooms"), str(world / "talks"), *more]
