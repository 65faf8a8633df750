"""Arguments of the public functions are checked where they come in: one sentence, a UserError or a TypeError.

`test_every_public_argument_has_a_row` walks over the public names: it fails for an argument that has no row here.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import ORDINARY

from colbertz import (
    ColBERT,
    Document,
    Explanation,
    Index,
    Ragged,
    Searcher,
    SearchOptions,
    maxsim,
    maxsim_candidates,
    quantised,
)
from colbertz import distillation as mining
from colbertz import evaluation as judging
from colbertz.distillation.lists import CandidateList, Candidates
from colbertz.errors import UserError
from colbertz.evaluation import Collection
from colbertz.index import BuildKeywords, SearchKeywords
from colbertz.integrations.export import FixedDimensional, export_vectors, sign_bits
from colbertz.models import BertConfig, ColBERTSettings, ColBERTTokenizer, ModernBertConfig
from colbertz.training import losses

# The packages whose `__all__` is public.
PACKAGES = [
    "colbertz",
    "colbertz.index",
    "colbertz.models",
    "colbertz.evaluation",
    "colbertz.distillation",
    "colbertz.integrations.export",
]
# What the library makes and a caller only reads, or makes by other functions that are here.
NOT_MADE_BY_CALLERS = {"Hit", "Encoded", "Tokens", "Candidate", "Index", "Bert", "ModernBert", "CheckpointError"}
# Arguments without a check of their own, and why.
UNCHECKED = {
    "ColBERT encoder": "a path is refused; other objects are told by PyTorch",
    "ColBERT projections": "joined by from_pretrained and from_scratch",
    "ColBERT tokenizer": "None is refused",
    "ColBERTTokenizer special_tokens": "read from the files of a checkpoint",
    "ColBERTSettings.check_lengths max_positions": "of an encoder",
    "ColBERTSettings.cut_to longest": "of an encoder",
    "ColBERTSettings.length side": "checked by encode",
    "ColBERTSettings.prompt side": "checked by encode",
    "ColBERT.warn_truncated num_truncated": "a count that encode returned",
    "ColBERT.warn_truncated side": "checked by encode",
    "ColBERT.warn_truncated num_texts": "a count for the message",
    "ColBERTTokenizer.tokenise side": "checked by encode",
    "ColBERTTokenizer.input_of text": "checked by tokenise",
    "ColBERTTokenizer.prefix_id side": "checked by encode",
    **{f"Explanation {name}": "made by Searcher.explain" for name in Explanation.__annotations__},
    **{f"Ranked {name}": "made by ColBERT.rank" for name in ("position", "score", "text")},
    "ColBERT.rank options": "those of encode_document",
    "Bert.forward ids": "made by the tokenizer",
    "Bert.forward attended": "made by the tokenizer",
    "ModernBert.forward ids": "made by the tokenizer",
    "ModernBert.forward attended": "made by the tokenizer",
    "Bert.forward seeds": "made by the tokenizer's callers in training",
    "ModernBert.forward seeds": "made by the tokenizer's callers in training",
    "Tokens.cat batches": "made by the tokenizer",
    "Tokens.to device": "as Tensor.to, which checks it",
    "Tokens.to non_blocking": "as Tensor.to, which checks it",
    "Ragged.to args": "as Tensor.to, which checks them",
    "Ragged.to kwargs": "as Tensor.to, which checks them",
    "Ragged.map function": "called at once",
    "Document where": "a place for messages",
    "Document.named number": "a number for messages",
    "SearchOptions.subset_of_each num_queries": "the number of the queries that are searched",
    "BertConfig extra": "the other keys of a config.json",
    "ModernBertConfig extra": "the other keys of a config.json",
}

TEXTS = Ragged.from_list([torch.ones(2, 4), torch.ones(3, 4)])
CANDIDATES = Ragged.from_lengths(torch.tensor([0, 1]), [1, 1])
SCORES = Ragged.from_lengths(torch.ones(4), [2, 2])
COLLECTION = Collection("c", ["q"], ["query"], ["a", "b"], ["one", "two"], [{"a": 1.0}])
LISTS = Candidates({"q": "query"}, {"a": "one"}, [CandidateList("q", ["a"])])
FOUND = [mining.Candidate("a", "one", 1.0)]
MATRIX, RIGHT = torch.ones(2, 3), torch.tensor([0, 1])

NOT_COUNTS = [0, -1, 1.5, math.nan, "2", True, [1]]
NOT_SEEDS = [-1, 1.5, math.nan, "4", None, True]
NOT_RAGGED = [None, 7, math.nan, "text", [1]]
NOT_TENSORS = [None, 7, math.nan, "x", [1.0]]
NOT_STRINGS = [7, math.nan, ["x"], b"x"]
NOT_PATHS = [None, 7, math.nan, [1]]
NOT_BOOLS = ["no", None, 7, math.nan]
NOT_PROGRESS = ["no", 7, math.nan]
NOT_LISTS = [None, 7, math.nan, "text"]
NOT_SHARES = [-0.1, 1.1, math.nan, "x", None, True]
NOT_DEVICES = ["gpu", "cuda:99", 7, math.nan, {}]
OTHERS = [None, 7, math.nan, "x", [1]]


@dataclass(frozen=True)
class World:
    """What the rows call: a model, an index of `ORDINARY` and an empty folder."""

    model: ColBERT
    searcher: Searcher
    embeddings: Ragged
    checkpoint: Path
    folder: Path

    @property
    def index(self) -> Index:
        return self.searcher.index

    def build(self, **options: Any) -> Index:
        return Index.build(**{"path": self.folder / "new", "embeddings": self.embeddings} | options)

    def build_from(self, **options: Any) -> Index:
        documents = [Document(f"{i}", text) for i, text in enumerate(ORDINARY)]
        defaults = {"path": self.folder / "new", "documents": documents, "embed": lambda batch: self.embeddings}
        return Index.build_from(**defaults | options)

    def build_searcher(self, **options: Any) -> Searcher:
        return Searcher.build(**{"path": self.folder / "new", "model": self.model, "documents": ORDINARY} | options)

    def mine(self, **options: Any) -> list[Any]:
        defaults = {"model": self.model, "index": self.index, "collection": COLLECTION, "filters": mining.Filters()}
        return list(mining.mine(**defaults | options))

    def score_lists(self, **options: Any) -> list[Any]:
        teacher = mining.load_teacher("colbert", str(self.checkpoint))
        return list(mining.score_lists(**{"candidates": LISTS, "teacher": teacher} | options))


# What a row calls with a wrong value, the values, and the word that the messages must have.
Row = tuple[Callable[[World, Any], Any], list[Any], str]
ROWS: dict[str, Row] = {}


def rows(owner: str, call: Callable[..., Any], *, words: dict[str, str] | None = None, **wrong: list[Any]) -> None:
    """Rows for a function that is called with the world and one argument by name."""
    for name, values in wrong.items():
        ROWS[f"{owner} {name}"] = (
            lambda world, value, name=name: call(world, **{name: value}),
            values,
            (words or {}).get(name, name),
        )


def each(names: Iterable[str], wrong: list[Any]) -> dict[str, list[Any]]:
    """The same wrong values for several arguments."""
    return dict.fromkeys(names, wrong)


# -- Ragged and MaxSim -----------------------------------------------------------------------------------------------

for function, first in ((maxsim, {}), (maxsim_candidates, {"candidates": CANDIDATES})):
    rows(
        function.__name__,
        lambda w, function=function, first=first, **x: function(
            **{"queries": TEXTS, "documents": quantised(TEXTS)[0] if "scales" in x else TEXTS} | first | x
        ),
        queries=NOT_RAGGED,
        documents=NOT_RAGGED,
        scales=[7, "x", [1.0], math.nan],
        backend=["gpu", 7, math.nan],
        **({"candidates": NOT_RAGGED} if first else {}),
    )
rows(
    "quantised",
    lambda w, **x: quantised(**{"documents": TEXTS} | x),
    documents=NOT_RAGGED,
    dtype=[torch.float32, "int8", 8, None],
)
rows(
    "Ragged",
    lambda w, **x: Ragged(**{"values": torch.ones(2, 4), "offsets": torch.tensor([0, 2])} | x),
    values=[*NOT_TENSORS, torch.tensor(1.0)],
    offsets=[*NOT_TENSORS, torch.tensor([0, 3])],
)
rows("Ragged.from_list", lambda w, **x: Ragged.from_list(**x), texts=[7, None, ["x"], [[1.0]], "text"])
rows("Ragged.from_list", lambda w, texts: Ragged.from_list(texts), texts=[[]], words={"texts": "at least one"})
rows("Ragged.cat", lambda w, **x: Ragged.cat(**x), batches=[7, None, ["x"], [torch.ones(2)], "text"])
rows(
    "Ragged.from_lengths",
    lambda w, **x: Ragged.from_lengths(**{"values": torch.ones(2, 4), "lengths": [1, 1]} | x),
    values=NOT_TENSORS,
    lengths=[7, None, "x", [1.0, 1.0], [math.nan]],
)
rows(
    "Ragged.from_padded",
    lambda w, **x: Ragged.from_padded(**{"padded": torch.ones(2, 3, 4), "mask": torch.ones(2, 3)} | x),
    padded=NOT_TENSORS,
    mask=[*NOT_TENSORS, torch.ones(3, 2)],
)
rows("Ragged.with_values", lambda w, **x: TEXTS.with_values(**x), values=NOT_TENSORS)
rows("Ragged.select", lambda w, **x: TEXTS.select(**x), mask=[*NOT_TENSORS, torch.ones(5), torch.ones(4).bool()])
rows("Ragged.split", lambda w, **x: TEXTS.split(**x), max_rows=[-1, 1.5, math.nan, "2", True, None])
rows("Ragged.padded", lambda w, **x: TEXTS.padded(**x), value=[None, "x", [1]])

# -- models ----------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, list[Any]] = {
    **each(("query_prefix", "document_prefix"), [None, *NOT_STRINGS]),
    **each(("query_length", "document_length"), [*NOT_COUNTS, 3, None]),
    **each(("do_query_expansion", "attend_to_expansion_tokens", "do_lower_case", "do_strip"), NOT_BOOLS),
    "skiplist_words": ["x", None, 7, [7]],
    "prompts": ["x", None, 7, ["x"], {"query": 7}],
    "default_prompt_name": NOT_STRINGS,
}
rows("ColBERTSettings", lambda w, **x: ColBERTSettings(**x), **SETTINGS)
rows(
    "ColBERTSettings.overridden",
    lambda w, **x: ColBERTSettings().overridden(**x),
    overrides=[{"no": 1}],
    words={"overrides": "setting"},
)
rows("ColBERTSettings.prompt", lambda w, name: ColBERTSettings().prompt("query", name), name=["no", *NOT_STRINGS])
ROWS["ColBERTSettings.prompt name"] = (*ROWS["ColBERTSettings.prompt name"][:2], "prompt")
LOADING: dict[str, list[Any]] = {"device": NOT_DEVICES, "dtype": ["float16", torch.int8, 7, math.nan]}
rows(
    "ColBERT.from_pretrained",
    lambda w, **x: ColBERT.from_pretrained(**{"path_or_hub_id": w.checkpoint} | x),
    path_or_hub_id=NOT_PATHS,
    backend=["tensorrt", None, 7],
    embedding_dim=NOT_COUNTS,
    seed=NOT_SEEDS,
    **LOADING,
    **SETTINGS,
)
rows("ColBERT.from_pretrained", lambda w, overrides: ColBERT.from_pretrained(w.checkpoint, no=overrides), overrides=[1])
ROWS["ColBERT.from_pretrained overrides"] = (*ROWS["ColBERT.from_pretrained overrides"][:2], "no setting 'no'")
SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
rows(
    "ColBERT.from_scratch",
    lambda w, **x: ColBERT.from_scratch(**{"encoder": BertConfig(**SMALL), "tokenizer": w.model.tokenizer.backend} | x),
    encoder=OTHERS,
    tokenizer=OTHERS,
    words={"encoder": "model_type"},
    embedding_dim=[*NOT_COUNTS, None],
    seed=NOT_SEEDS,
    settings=[],
    **SETTINGS,
)
for config, activation in ((BertConfig, "hidden_act"), (ModernBertConfig, "hidden_activation")):
    kinds = {int: [*NOT_COUNTS, None], float: [-1, math.nan, "x", None, True], bool: NOT_BOOLS, str: ["no", 7, None]}
    rows(
        config.__name__,
        lambda w, config=config, **x: config(**x),
        **{field.name: kinds[field.type] for field in fields(config) if field.type in kinds},
        **({"layer_types": [["no"], 7, "x"]} if config is ModernBertConfig else {}),
    )
    rows(f"{config.__name__}.from_dict", lambda w, c=config, **x: c.from_dict(x["config"]), config=[{activation: 7}])
    ROWS[f"{config.__name__}.from_dict config"] = (*ROWS[f"{config.__name__}.from_dict config"][:2], activation)
rows(
    "ColBERTTokenizer",
    lambda w, **x: ColBERTTokenizer(
        **{"backend": w.model.tokenizer.backend, "settings": ColBERTSettings(), "special_tokens": {}} | x
    ),
    backend=OTHERS,
    settings=OTHERS,
)
for name in ("queries", "documents"):
    rows(
        f"ColBERTTokenizer.{name}", lambda w, name=name, **x: getattr(w.model.tokenizer, name)(**x), texts=[[7], [None]]
    )
    rows(
        f"ColBERTTokenizer.{name}",
        lambda w, name=name, **x: getattr(w.model.tokenizer, name)(["a"], **x),
        prompt=NOT_STRINGS,
    )
rows("ColBERTTokenizer.tokenise", lambda w, **x: w.model.tokenizer.tokenise(**x, side="query"), texts=[[7], [None]])
rows("ColBERTTokenizer.tokenise", lambda w, **x: w.model.tokenizer.tokenise(["a"], "query", **x), prompt=NOT_STRINGS)
rows(
    "ColBERTTokenizer.tokens_of_every_document",
    lambda w, **x: w.model.tokenizer.tokens_of_every_document(**x),
    prompt=NOT_STRINGS,
)
ENCODING: dict[str, list[Any]] = {
    "texts": [None, 7, [7], b"x", {"a": 1}, math.nan],
    "prompt": [7, ["x"], b"x"],
    "prompt_name": ["nonsense", 7, ["x"]],
    "batch_tokens": NOT_COUNTS,
    "normalize": NOT_BOOLS,
    "show_progress": NOT_PROGRESS,
    "devices": ["cpu", 7, math.nan],
}
POOLING: dict[str, list[Any]] = {
    "pool_factor": NOT_COUNTS,
    "protected_tokens": [-1, 1.5, math.nan, "2"],
    "pooling": ["mean", None, 7],
}
for name, first, more in (
    ("encode", {"side": "document"}, POOLING | {"side": ["both", None, 7]}),
    ("encode_query", {}, {}),
    ("encode_document", {}, POOLING),
):
    rows(
        f"ColBERT.{name}",
        lambda w, name=name, first=first, **x: getattr(w.model, name)(**{"texts": ["a"]} | first | x),
        words={"prompt_name": "prompt"},
        **ENCODING,
        **more,
    )
rows(
    "ColBERT.rank",
    lambda w, **x: w.model.rank(**{"query": "a", "texts": ["a"]} | x),
    query=[*NOT_STRINGS, None, "", " "],
    texts=["one", 7, None, [7], [None]],
    k=NOT_COUNTS,
)
for name in ("forward", "embed"):
    rows(
        f"ColBERT.{name}",
        lambda w, name=name, **x: getattr(w.model, name)(**{"tokens": w.model.tokenizer.queries(["a"])} | x),
        tokens=OTHERS,
        normalize=NOT_BOOLS,
    )
rows(
    "ColBERT.similarity",
    lambda w, **x: w.model.similarity(**{"queries": TEXTS, "documents": TEXTS} | x),
    queries=NOT_TENSORS,
    documents=NOT_TENSORS,
)
rows("ColBERT.save_pretrained", lambda w, **x: w.model.save_pretrained(**x), directory=NOT_PATHS)
rows(
    "ColBERT.export_onnx",
    lambda w, **x: w.model.export_onnx(**{"directory": w.folder / "onnx"} | x),
    directory=NOT_PATHS,
    int8=NOT_BOOLS,
    name=NOT_STRINGS,
)

# -- indexes ---------------------------------------------------------------------------------------------------------

BUILDING: dict[str, list[Any]] = {
    "nbits": [0, 3, -1, math.nan, "4"],
    "codec": ["lz4", 7, None, []],
    "bytes_per_token": [0, -1, 16, "4", math.nan],
    "seed": NOT_SEEDS,
    "overwrite": NOT_BOOLS,
    "num_documents": NOT_COUNTS,
    "show_progress": NOT_PROGRESS,
    "chunk_tokens": NOT_COUNTS,
}
KEYWORDS = BUILDING | {
    "model": NOT_STRINGS,
    "recipe": NOT_STRINGS,
    "encoding": OTHERS[1:],
    "fingerprint": [7, math.nan, "x", ["x"]],
    "device": ["gpu", "cuda:99", 7, math.nan, {}],
}
COLUMNS: dict[str, list[Any]] = {
    "ids": ["abc", 7, ["a"], [None] * len(ORDINARY), list(range(len(ORDINARY)))],
    "texts": ["abc", 7, ["a"], [7] * len(ORDINARY)],
    "metadata": ["abc", 7, [{}], [7] * len(ORDINARY), [{"a": math.nan}] * len(ORDINARY)],
}
NOT_EMBEDDINGS = [None, 7, math.nan, [1], [torch.ones(2, 2)], Ragged.from_list([torch.full((2, 16), math.nan)])]
BROKEN = [Ragged.from_list([torch.full((2, 16), math.nan)])]
rows(
    "Index.build",
    lambda w, **x: w.build(**x),
    path=NOT_PATHS,
    embeddings=NOT_EMBEDDINGS,
    options=[],
    **COLUMNS,
    **KEYWORDS,
)
rows(
    "Index.build_from",
    lambda w, **x: w.build_from(**x),
    path=NOT_PATHS,
    documents=[None, 7, math.nan, ["text"], [7], []],
    words={"documents": "document"},
    embed=OTHERS,
    documents_at_once=NOT_COUNTS,
    options=[],
    **KEYWORDS,
)
rows("Document", lambda w, id: w.build_from(documents=[Document(id)]), id=[7, None, math.nan, "\ud800"])
rows("Document", lambda w, text: w.build_searcher(documents=[Document("a", text)]), text=[7, None, math.nan, b"x"])
rows("Document", lambda w, metadata: w.build_from(documents=[Document("a", "b", metadata)]), metadata=[7, None, [1]])
ROWS["Document id"] = (*ROWS["Document id"][:2], "document 0")
rows("Index.open", lambda w, **x: Index.open(**x), path=NOT_PATHS)
OPTIONS: dict[str, list[Any]] = {
    "n_ivf_probe": NOT_COUNTS,
    "n_full_scores": NOT_COUNTS,
    "fusion_depth": NOT_COUNTS,
    "exact": [0, *NOT_BOOLS],
    "once": [0, *NOT_BOOLS],
    "hybrid": [1, *NOT_BOOLS],
    "where": [7, ["x"], math.nan],
    "where_seconds": [-1, math.nan, "2", None, True, [1]],
    "parameters": [7, None, [1]],
    "subset": [7, "id", [1], math.nan],
    "text_weight": NOT_SHARES,
    "fusion": ["sum", None, 7, []],
}
rows("SearchOptions", lambda w, **x: SearchOptions(**x), **OPTIONS)
rows("SearchOptions", lambda w, device: w.index.search(w.embeddings, device=device), device=KEYWORDS["device"])
SEARCHING: dict[str, list[Any]] = {"k": [*NOT_COUNTS, None], "options": [7, "x", {"exact": True}], "overrides": [1]}
NOT_QUERIES = [None, 7, "x", [1.0], *BROKEN]
rows("Index.search", lambda w, **x: w.index.search(**{"queries": w.embeddings} | x), queries=NOT_QUERIES, **SEARCHING)
rows(
    "Index.search_text",
    lambda w, **x: w.index.search_text(**{"queries": ["a"]} | x),
    queries=[None, 7, "x", [1.0], math.nan, [""]],
    words={"queries": "quer"},
    **SEARCHING,
)
rows(
    "Index.search_hybrid",
    lambda w, **x: w.index.search_hybrid(**{"queries": w.embeddings, "texts": ORDINARY} | x),
    queries=NOT_QUERIES,
    texts=[None, 7, "x", [1.0], ["a"]],
    words={"texts": "text"},
    **SEARCHING,
)
rows(
    "Searcher.search",
    lambda w, **x: w.searcher.search(**{"queries": ["a"]} | x),
    queries=[None, 7, [7], math.nan, ""],
    words={"queries": ""},
    **SEARCHING,
)
rows(
    "Index.token_scores",
    lambda w, **x: w.index.token_scores(**{"query": w.embeddings[0], "doc_id": "0"} | x),
    query=[*NOT_TENSORS, torch.ones(2, 3)],
    doc_id=[None, 7, math.nan, "no", ["0"]],
    words={"doc_id": "", "query": "quer"},
)
rows("Index.get", lambda w, **x: w.index.get(**x), ids=[None, 7, [7], "unknown", math.nan], words={"ids": ""})
for name in ("ids", "count"):
    rows(
        f"Index.{name}",
        lambda w, name=name, **x: getattr(w.index, name)(**x),
        where=OPTIONS["where"],
        parameters=[7, [1]],
    )
rows(
    "Index.add",
    lambda w, **x: w.index.add(**{"embeddings": w.embeddings} | x),
    embeddings=NOT_EMBEDDINGS,
    on_duplicate=["skip", None, 7],
    **COLUMNS,
)
rows(
    "Index.update",
    lambda w, **x: w.index.update(**{"embeddings": w.embeddings, "ids": [str(i) for i in range(len(ORDINARY))]} | x),
    embeddings=NOT_EMBEDDINGS,
    **COLUMNS,
)
rows(
    "Index.delete",
    lambda w, **x: w.index.delete(**x),
    ids=[None, 7, math.nan, "0", [7], ["unknown"]],
    words={"ids": ""},
)
rows(
    "Index.compact", lambda w, **x: w.index.compact(**x), retrain=NOT_BOOLS, seed=NOT_SEEDS, show_progress=NOT_PROGRESS
)

# -- a model and an index together -----------------------------------------------------------------------------------

rows("Searcher", lambda w, **x: Searcher(**{"model": w.model, "index": w.index} | x), model=OTHERS, index=OTHERS)
rows(
    "Searcher.open",
    lambda w, **x: Searcher.open(**{"path": w.index.path, "model": str(w.checkpoint)} | x),
    path=NOT_PATHS,
    model=[7, math.nan, [1]],
    backend=["tensorrt", 7],
    words={"model": "path_or_hub_id"},
    **LOADING,
)
rows(
    "Searcher.build",
    lambda w, **x: w.build_searcher(**x),
    path=NOT_PATHS,
    model=NOT_PATHS,
    documents=[None, 7, math.nan, "text", [7], []],
    ids=COLUMNS["ids"],
    metadata=COLUMNS["metadata"],
    pool_factor=NOT_COUNTS,
    batch_tokens=NOT_COUNTS,
    devices=ENCODING["devices"],
    location=[7, math.nan, [1]],
    index_device=KEYWORDS["device"],
    on_bad_text=["ignore", None, 7],
    documents_at_once=NOT_COUNTS,
    words={"index_device": "device", "documents": "document"},
    **BUILDING,
)
NEW = [f"new{i}" for i in range(len(ORDINARY))]
rows(
    "Searcher.add",
    lambda w, **x: w.searcher.add(**{"texts": ORDINARY, "ids": NEW} | x),
    texts=[None, 7, "x", [7], []],
    on_duplicate=["skip", None, 7],
    on_bad_text=["ignore", None, 7],
    pool_factor=NOT_COUNTS,
    show_progress=NOT_PROGRESS,
    ids=COLUMNS["ids"],
    metadata=COLUMNS["metadata"],
)
rows(
    "Searcher.update",
    lambda w, **x: w.searcher.update(**{"texts": ORDINARY, "ids": [str(i) for i in range(len(ORDINARY))]} | x),
    texts=[None, 7, "x", [7]],
    pool_factor=NOT_COUNTS,
    show_progress=NOT_PROGRESS,
    ids=COLUMNS["ids"],
    metadata=COLUMNS["metadata"],
)
rows("Searcher.delete", lambda w, **x: w.searcher.delete(**x), ids=[None, 7, "0", [7], ["unknown"]], words={"ids": ""})
rows(
    "Searcher.explain",
    lambda w, **x: w.searcher.explain(**{"query": "a", "doc_id": "0"} | x),
    query=[None, 7, math.nan, ["a"]],
    doc_id=[None, 7, math.nan, "no", ["0"]],
    words={"doc_id": ""},
)

# -- evaluation ------------------------------------------------------------------------------------------------------

rows(
    "Collection",
    lambda w, **x: Collection(**{field.name: getattr(COLLECTION, field.name) for field in fields(COLLECTION)} | x),
    name=[None, *NOT_STRINGS],
    **each(("query_ids", "queries", "document_ids", "documents", "gains"), [*NOT_LISTS, ["a"] * 3]),
)
rows("Collection.some_queries", lambda w, **x: COLLECTION.some_queries(**x), most=NOT_COUNTS)
rows(
    "from_pairs",
    lambda w, **x: judging.from_pairs(**{"name": "c", "queries": ["a"], "documents": ["b"]} | x),
    name=[None, *NOT_STRINGS],
    queries=[*NOT_LISTS, ["a", "b"], [7]],
    documents=[*NOT_LISTS, ["a", "b"], [7]],
)
rows(
    "read_beir",
    lambda w, **x: judging.read_beir(**{"directory": w.folder, "split": "test"} | x),
    directory=NOT_PATHS,
    split=[None, *NOT_STRINGS],
    qrels=[7, math.nan, [1]],
    name=NOT_STRINGS,
)
JUDGING: dict[str, list[Any]] = {"model": OTHERS, "collection": OTHERS}
for name, more in (
    ("evaluate", {"k": [*NOT_COUNTS, None]}),
    (
        "retrieve",
        {
            "k": [*NOT_COUNTS, None],
            "index": ["ivf", None, 7],
            "show_progress": NOT_PROGRESS,
            "device": ["gpu", 7, math.nan],
        },
    ),
    ("rerank", {"run": [*OTHERS, {}], "block_documents": NOT_COUNTS, "show_progress": NOT_PROGRESS}),
):
    rows(
        name,
        lambda w, name=name, **x: getattr(judging, name)(
            **{"model": w.model, "collection": COLLECTION}
            | ({"run": {"q": {"a": 1.0}}} if name == "rerank" else {})
            | ({"index": "plaid"} if "device" in x else {})
            | x
        ),
        **JUDGING,
        **more,
    )
for name in ("mrr", "recall", "ndcg"):
    rows(
        name,
        lambda w, name=name, **x: getattr(judging, name)(**{"rankings": [["a"]], "relevant": [{"a": 1.0}]} | x),
        rankings=[*NOT_LISTS, [], [["a", "a"]]],
        relevant=[*NOT_LISTS, [], [{}]],
        words={"rankings": "ranking"},
        k=[*NOT_COUNTS, None],
    )

# -- distillation and losses -----------------------------------------------------------------------------------------

rows(
    "Filters",
    lambda w, **x: mining.Filters(**x),
    num_negatives=[*NOT_COUNTS, None],
    min_rank=[*NOT_COUNTS, None],
    max_rank=NOT_COUNTS,
    margin=[-0.1, math.nan, "x", True],
    max_percentage=[0, *(value for value in NOT_SHARES if value is not None)],
    sampling=["best", None, 7],
    seed=NOT_SEEDS,
)
rows(
    "mine",
    lambda w, **x: w.mine(**x),
    **each(("model", "index", "collection", "filters"), OTHERS),
    top_k=[*NOT_COUNTS, None],
    batch_tokens=NOT_COUNTS,
    queries_at_once=[*NOT_COUNTS, None],
    show_progress=NOT_PROGRESS,
)
rows(
    "choose",
    lambda w, **x: mining.choose(
        **{"query": "q", "positives": FOUND, "candidates": FOUND, "filters": mining.Filters()} | x
    ),
    query=OTHERS[:3],
    positives=[*NOT_LISTS, [], [7]],
    candidates=[*NOT_LISTS, [7]],
    filters=OTHERS,
)
rows(
    "load_teacher",
    lambda w, **x: mining.load_teacher(**{"kind": "colbert", "path_or_hub_id": str(w.checkpoint)} | x),
    kind=["reranker", None, 7],
    path_or_hub_id=NOT_PATHS,
    **LOADING,
)
rows("bm25_teacher", lambda w, **x: mining.bm25_teacher(**x), corpus=[None, 7, math.nan, "text", [7]])
rows(
    "score_lists",
    lambda w, **x: w.score_lists(**x),
    candidates=OTHERS,
    teacher=OTHERS,
    bm25=[7, "x", math.nan],
    bm25_weight=NOT_SHARES,
    pairs_at_once=[*NOT_COUNTS, None],
    show_progress=NOT_PROGRESS,
)
rows(
    "fuse",
    lambda w, **x: mining.fuse(**{"scores": [1.0, 2.0], "bm25_scores": [1.0, 2.0], "weight": 0.5} | x),
    scores=[*NOT_LISTS, [1.0]],
    bm25_scores=[*NOT_LISTS, [1.0]],
    weight=NOT_SHARES,
)
NOT_TEMPERATURES = [0, -1.0, math.nan, "1", None, True]
rows(
    "losses.contrastive",
    lambda w, **x: losses.contrastive(**{"scores": MATRIX, "positives": RIGHT, "temperature": 1.0} | x),
    scores=NOT_TENSORS,
    positives=NOT_TENSORS,
    temperature=NOT_TEMPERATURES,
    dropped=NOT_TENSORS[1:],
    symmetric=NOT_BOOLS,
)
rows(
    "losses.false_negatives",
    lambda w, **x: losses.false_negatives(**{"scores": MATRIX, "positives": RIGHT} | x),
    scores=NOT_TENSORS,
    positives=NOT_TENSORS,
    keys=NOT_TENSORS[1:],
    margin=[math.nan, "x", True],
)
LISTS_OF_SCORES: dict[str, list[Any]] = {name: [*NOT_RAGGED, SCORES[:1]] for name in ("student", "teacher")}
rows(
    "losses.distillation",
    lambda w, **x: losses.distillation(**{"student": SCORES, "teacher": SCORES} | x),
    normalize=NOT_BOOLS,
    student_temperature=NOT_TEMPERATURES,
    teacher_temperature=NOT_TEMPERATURES,
    **LISTS_OF_SCORES,
)
rows(
    "losses.margin_mse",
    lambda w, **x: losses.margin_mse(**{"student": SCORES, "teacher": SCORES} | x),
    **LISTS_OF_SCORES,
)
rows(
    "losses.xtr",
    lambda w, **x: losses.xtr(**{"queries": TEXTS, "documents": TEXTS, "k": 1} | x),
    queries=NOT_RAGGED,
    documents=NOT_RAGGED,
    k=[*NOT_COUNTS, None],
    block_size=[*NOT_COUNTS, None],
)
rows(
    "losses.truncated",
    lambda w, **x: losses.truncated(**{"texts": TEXTS, "dim": 2} | x),
    texts=NOT_RAGGED,
    dim=[*NOT_COUNTS, None, 5],
)
rows(
    "losses.accuracy",
    lambda w, **x: losses.accuracy(**{"scores": MATRIX, "best": MATRIX.bool()} | x),
    scores=NOT_TENSORS,
    best=NOT_TENSORS,
)


# -- the tests -------------------------------------------------------------------------------------------------------


def arguments_of(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


# -- export to other engines -----------------------------------------------------------------------------------------

rows(
    "export_vectors",
    lambda w, **x: export_vectors(**{"index": w.index, "to": "vespa", "out": w.folder / "feed.jsonl"} | x),
    index=NOT_PATHS,
    to=["solr", None, 7, ["arrow"]],
    out=NOT_PATHS,
    name=[None, *NOT_STRINGS, "", "a/b", "7"],
    fde=[7, "x", True, FixedDimensional(1, dim_proj=1)],
    bits=NOT_BOOLS,
    show_progress=NOT_PROGRESS,
)
rows(
    "FixedDimensional",
    lambda w, **x: FixedDimensional(**{"embedding_dim": 16} | x),
    embedding_dim=[*NOT_COUNTS, None, 15],
    k_sim=[*NOT_COUNTS, None, 21],
    dim_proj=[*NOT_COUNTS, None, 17],
    r_reps=[*NOT_COUNTS, None],
    seed=NOT_SEEDS,
)
for method in ("queries", "documents"):
    rows(
        f"FixedDimensional.{method}",
        lambda w, method=method, **x: getattr(FixedDimensional(16), method)(**x),
        embeddings=[*NOT_RAGGED, TEXTS],
    )
rows("sign_bits", lambda w, **x: sign_bits(**x), values=[*NOT_TENSORS, torch.ones(3)])


def public_arguments() -> Iterator[str]:
    """Each argument of each public function, method and constructor, as the rows name them."""
    for module in map(import_module, PACKAGES):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield from (f"{name} {argument}" for argument in arguments_of(value))
            elif inspect.isclass(value) and value not in (BuildKeywords, SearchKeywords):
                methods = {f"{name}.{method}": getattr(value, method) for method in vars(value) if method[0] != "_"}
                if name not in NOT_MADE_BY_CALLERS:
                    methods[name] = value
                for method, function in methods.items():
                    if callable(function):
                        yield from (f"{method} {argument}" for argument in arguments_of(function))
    for name, value in vars(losses).items():
        if inspect.isfunction(value) and value.__module__ == losses.__name__ and name[0] != "_" and name != "stretched":
            yield from (f"losses.{name} {argument}" for argument in arguments_of(value))


def test_every_public_argument_has_a_row() -> None:
    known = ROWS.keys() | UNCHECKED.keys()
    assert sorted(set(public_arguments()) - known) == []
    assert UNCHECKED.keys().isdisjoint(ROWS)
    assert sorted(UNCHECKED.keys() - set(public_arguments())) == []
    options = {f"Index.build {name}" for name in BuildKeywords.__annotations__}
    assert options <= ROWS.keys()


@pytest.fixture(scope="module")
def world(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = ColBERT.from_pretrained(checkpoint)
    searcher = Searcher.build(folder / "index", model, ORDINARY)
    return World(model, searcher, model.encode_document(ORDINARY), checkpoint, folder)


@pytest.mark.parametrize("row", ROWS)
def test_wrong_arguments_are_refused(row: str, world: World) -> None:
    call, values, word = ROWS[row]
    wrongly: list[tuple[Any, str]] = []
    for value in values:
        try:
            call(world, value)
        except (UserError, TypeError) as error:
            message = str(error)
            if "\n" in message or word not in message:
                wrongly.append((value, message))
        else:
            wrongly.append((value, "accepted"))
    assert wrongly == []
    assert len(world.index) == len(ORDINARY)
