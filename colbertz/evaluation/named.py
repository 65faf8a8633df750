"""Collections by name from the Hugging Face hub: `beir:scifact`."""

from pathlib import Path

from colbertz.evaluation.collections import Collection, read_beir

# Query lengths with which ColBERT-Zero and its peers are evaluated on BEIR; documents are cut to 300 tokens.
_LENGTHS = {
    32: "quora nq msmarco hotpotqa nfcorpus fiqa dbpedia-entity webis-touche2020 fever",
    48: "scifact trec-covid scidocs",
    64: "arguana climate-fever",
}
QUERY_LENGTHS = {name: length for length, names in _LENGTHS.items() for name in names.split()}
DOCUMENT_LENGTH = 300


def load(source: str, split: str | None) -> Collection:
    """A directory in BEIR's layout, or `beir:NAME` from the hub (repositories BeIR/NAME and BeIR/NAME-qrels).

    Args:
        source: a directory or a name.
        split: of the judgements; None for test, and for msmarco dev, which is what is reported.

    Raises:
        FileNotFoundError: if it is not there, or has no such split.
        ValueError: for a name that is none, or as `read_beir`.
    """
    if not source.startswith("beir:"):
        return read_beir(source, split or "test")
    name = source.removeprefix("beir:")
    if name not in QUERY_LENGTHS:
        raise ValueError(f"there is no {source}; there are {', '.join(f'beir:{known}' for known in QUERY_LENGTHS)}")
    texts, qrels = (_downloaded(f"BeIR/{name}{suffix}") for suffix in ("", "-qrels"))
    return read_beir(texts, split or ("dev" if name == "msmarco" else "test"), qrels=qrels, name=name)


def _downloaded(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=["*.jsonl.gz", "*.tsv"]))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise FileNotFoundError(f"{repository} is not in the local cache, and the hub cannot be reached") from error
