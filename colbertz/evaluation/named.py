"""Collections by name from the Hugging Face hub: `beir:scifact`, `nanobeir:msmarco`, `longembed:qmsum`."""

from collections.abc import Callable
from pathlib import Path

from colbertz.errors import UserError
from colbertz.evaluation import layouts
from colbertz.evaluation.collections import Collection

# Query lengths in tokens with which ColBERT-Zero and similar models are evaluated on BEIR.
_LENGTHS = {
    32: "quora nq msmarco hotpotqa nfcorpus fiqa dbpedia-entity webis-touche2020 fever",
    48: "scifact trec-covid scidocs",
    64: "arguana climate-fever",
}
QUERY_LENGTHS = {name: length for length, names in _LENGTHS.items() for name in names.split()}
# Tokens of a document there.
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
# LongEmbed has documents of up to 32,768 tokens. A model that reads fewer would be judged on their beginnings.
_LONG_DOCUMENT_LENGTH = 32768


def download(repository: str, *patterns: str) -> Path:
    """Download files of a data set from the hub, and return the local folder that they are in.

    Args:
        repository: "organisation/name".
        patterns: of the names of the files, such as "*.tsv".

    Raises:
        FileNotFoundError: if the hub cannot be reached and the files are not in the local cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise FileNotFoundError(f"{repository} is not in the local cache, and the hub cannot be reached") from error


def load(source: str, split: str | None, download: Callable[..., Path] = download) -> Collection:
    """A directory, or a name from the hub, if that is one collection; see `load_parts`.

    Raises:
        UserError: if it is several.
    """
    parts = load_parts(source, split, download)
    if len(parts) > 1:
        names = ", ".join(part.name for part in parts)
        raise UserError(f"{source} is {len(parts)} collections: {names}; give one of its splits")
    return parts[0]


def load_parts(source: str, split: str | None, download: Callable[..., Path] = download) -> list[Collection]:
    """A directory in one of the layouts of `layouts.read`, or a name from the hub.

    `beir:NAME` is in the repositories BeIR/NAME and BeIR/NAME-qrels, `nanobeir:NAME` in
    sentence-transformers/NanoBEIR-en, with BEIR's names or its own, and `longembed:NAME` in dwzhu/LongEmbed.

    Args:
        source: a directory or a name.
        split: of the judgements; None for test, or for beir:msmarco dev, as in published figures. For LongEmbed's
            needle and passkey a context length, and None for all of them.
        download: gets the files of a repository, as the function `download` does.

    Returns:
        One collection, but for needle and passkey one for each context length, each to be searched by itself.

    Raises:
        FileNotFoundError: if it cannot be found, or has no such split.
        UserError: for a name that is not known, or as `layouts.read`.
    """
    benchmark, name = _named(source)
    if benchmark == "beir":
        texts, qrels = (download(f"BeIR/{name}{part}", "*.jsonl.gz", "*.tsv") for part in ("", "-qrels"))
        return [layouts.read_beir(texts, split or ("dev" if name == "msmarco" else "test"), qrels=qrels, name=name)]
    if benchmark == "nanobeir":
        if split is not None:
            raise UserError(f"{source} has no splits; leave out the split {split!r}")
        patterns = (f"{folder}/{_NANO[name]}-*.parquet" for folder in ("corpus", "queries", "qrels"))
        return [layouts.read_nanobeir(download("sentence-transformers/NanoBEIR-en", *patterns), _NANO[name])]
    if benchmark == "longembed":
        return layouts.read_longembed(download("dwzhu/LongEmbed", f"{name}/*.jsonl") / name, split)
    return layouts.read(source, split)


def lengths(source: str) -> dict[str, int]:
    """The lengths with which models are evaluated on a named collection; for those that are missing, the model's."""
    benchmark, name = _named(source)
    if benchmark == "longembed":
        return {"document_length": _LONG_DOCUMENT_LENGTH}
    return {"query_length": QUERY_LENGTHS[name], "document_length": DOCUMENT_LENGTH} if benchmark else {}


def _named(source: str) -> tuple[str | None, str]:
    """The benchmark, and BEIR's or LongEmbed's name of the set; None and the source for a directory.

    What exists is a directory, even if it is called beir:scifact.
    """
    benchmark, colon, name = source.partition(":")
    if not colon or Path(source).exists():
        return None, source
    if benchmark == "beir":
        names = {known: known for known in QUERY_LENGTHS}
    elif benchmark == "nanobeir":
        names = {nano.lower().removeprefix("nano"): known for known, nano in _NANO.items()} | {n: n for n in _NANO}
        name = name.lower().removeprefix("nano")
    elif benchmark == "longembed":
        names = {known: known for known in _LONG}
    else:
        return None, source
    if name not in names:
        known_names = dict.fromkeys(names.values())
        raise UserError(f"there is no {source}; there are {', '.join(f'{benchmark}:{n}' for n in known_names)}")
    return benchmark, names[name]
