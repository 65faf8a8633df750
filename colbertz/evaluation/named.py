"""Collections by name from the Hugging Face hub: `beir:scifact`, `nanobeir:msmarco`, `longembed:qmsum`."""

from pathlib import Path

from colbertz.errors import UserError
from colbertz.evaluation import layouts
from colbertz.evaluation.collections import Collection, read_beir

# Query lengths with which ColBERT-Zero and its peers are evaluated on BEIR; documents are cut to 300 tokens.
_LENGTHS = {
    32: "quora nq msmarco hotpotqa nfcorpus fiqa dbpedia-entity webis-touche2020 fever",
    48: "scifact trec-covid scidocs",
    64: "arguana climate-fever",
}
QUERY_LENGTHS = {name: length for length, names in _LENGTHS.items() for name in names.split()}
DOCUMENT_LENGTH = 300

# The sets of BEIR that NanoBEIR has a part of, and what it calls them.
_NANO = {
    "arguana": "NanoArguAna",
    "climate-fever": "NanoClimateFEVER",
    "dbpedia-entity": "NanoDBPedia",
    "fever": "NanoFEVER",
    "fiqa": "NanoFiQA2018",
    "hotpotqa": "NanoHotpotQA",
    "msmarco": "NanoMSMARCO",
    "nfcorpus": "NanoNFCorpus",
    "nq": "NanoNQ",
    "quora": "NanoQuoraRetrieval",
    "scidocs": "NanoSCIDOCS",
    "scifact": "NanoSciFact",
    "webis-touche2020": "NanoTouche2020",
}
_LONG = ("narrativeqa", "qmsum", "2wikimqa", "summ_screen_fd", "needle", "passkey")
# LongEmbed is about documents of up to 32,768 tokens; cut to what models are set to, it would mean nothing.
_LONG_DOCUMENT_LENGTH = 32768


def load(source: str, split: str | None) -> Collection:
    """A directory, or a name from the hub, if that is one collection; see `load_parts`.

    Raises:
        ValueError: if it is several.
    """
    parts = load_parts(source, split)
    if len(parts) > 1:
        names = ", ".join(part.name for part in parts)
        raise UserError(f"{source} is {len(parts)} collections: {names}; give one of its splits")
    return parts[0]


def load_parts(source: str, split: str | None) -> list[Collection]:
    """A directory in one of the layouts of `layouts.read`, or a name from the hub.

    `beir:NAME` is in the repositories BeIR/NAME and BeIR/NAME-qrels, `nanobeir:NAME` in
    sentence-transformers/NanoBEIR-en, with BEIR's names or its own, and `longembed:NAME` in dwzhu/LongEmbed.

    Args:
        source: a directory or a name.
        split: of the judgements; None for test, or for beir:msmarco dev, which is what is reported. For LongEmbed's
            needle and passkey a context length, and None for all of them.

    Returns:
        One collection, but for needle and passkey one for each context length, each to be searched by itself.

    Raises:
        FileNotFoundError: if it is not there, or has no such split.
        ValueError: for a name that is none, or as `layouts.read`.
    """
    kind, name = _named(source)
    if kind == "beir":
        texts, qrels = (_downloaded(f"BeIR/{name}{part}", "*.jsonl.gz", "*.tsv") for part in ("", "-qrels"))
        return [read_beir(texts, split or ("dev" if name == "msmarco" else "test"), qrels=qrels, name=name)]
    if kind == "nanobeir":
        if split is not None:
            raise UserError(f"{source} has no splits; leave out the split {split!r}")
        files = (f"{folder}/{_NANO[name]}-*.parquet" for folder in ("corpus", "queries", "qrels"))
        return [layouts.read_nanobeir(_downloaded("sentence-transformers/NanoBEIR-en", *files), _NANO[name])]
    if kind == "longembed":
        return layouts.read_longembed(_downloaded("dwzhu/LongEmbed", f"{name}/*.jsonl") / name, split)
    return layouts.read(source, split)


def lengths(source: str) -> dict[str, int]:
    """With which lengths models are evaluated on a named collection; what is not here is the model's own."""
    kind, name = _named(source)
    if kind == "longembed":
        return {"document_length": _LONG_DOCUMENT_LENGTH}
    return {"query_length": QUERY_LENGTHS[name], "document_length": DOCUMENT_LENGTH} if kind else {}


def _named(source: str) -> tuple[str | None, str]:
    """Which benchmark, and BEIR's or LongEmbed's name of the set; None for a directory."""
    kind, _, name = source.partition(":")
    if kind == "beir":
        names = {known: known for known in QUERY_LENGTHS}
    elif kind == "nanobeir":
        names = {own.lower().removeprefix("nano"): known for known, own in _NANO.items()} | {n: n for n in _NANO}
        name = name.lower().removeprefix("nano")
    elif kind == "longembed":
        names = {known: known for known in _LONG}
    else:
        return None, source
    if name not in names:
        known = dict.fromkeys(names.values())
        raise UserError(f"there is no {source}; there are {', '.join(f'{kind}:{one}' for one in known)}")
    return kind, names[name]


def _downloaded(repository: str, *patterns: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise FileNotFoundError(f"{repository} is not in the local cache, and the hub cannot be reached") from error
