"""The model card: the data and the command that made a nano model, and its scores on the collections."""

from collections.abc import Mapping, Sequence

from colbertz.evaluation.significance import Estimate
from colbertz.recipes.judge import MEASURE, READ

# Licences of the texts that the packaged model is trained on, as stated at the source, by the names of the files.
LICENCES = {
    "arxiv": "arXiv titles and abstracts, CC0 1.0",
    "wiki": "English Wikipedia, CC BY-SA 3.0",
    "medquad": "MedQuAD, questions and answers of the US National Institutes of Health, CC BY 4.0",
    "acl": "ACL Anthology, titles and abstracts since 2016, CC BY 4.0",
    "squad": "questions of SQuAD 1.1, CC BY-SA 4.0",
    "qmsum": "questions of QMSum, MIT",
    "python": "source of Python's standard library, PSF-2.0, and of NumPy, PyTorch and SymPy, BSD-3-Clause",
}


def card(
    command: str,
    versions: Mapping[str, str],
    data: Mapping[str, int],
    trained_length: int,
    scores: Mapping[str, Mapping[str, Estimate]],
) -> str:
    """The README.md of a model.

    Args:
        command: the command line that made the model.
        versions: of the packages that made it, by their names.
        data: number of pairs or questions, by the name of their source.
        trained_length: tokens of a document that it was trained on.
        scores: nDCG@10 of the model and of BM25, by the way to search and the collection; may be empty.
    """
    lines = [
        "---",
        "library_name: colbertz",
        "tags: [ColBERT, late-interaction, PyLate]",
        "---",
        "",
        "# A nano ColBERT",
        "",
        "A small late-interaction model, trained from scratch by colbertz in the three stages of ColBERT-Zero (arXiv",
        "2602.16609). It is meant for trying things out and for tests, and where nothing may be downloaded.",
        "",
        f"It was trained on the first {trained_length:,} tokens of a document, and reads the first {READ:,}.",
        "",
        "```python",
        "from colbertz import ColBERT",
        "",
        'model = ColBERT.from_pretrained("FOLDER")    # "colbertz/nano" is the one that comes with colbertz',
        "```",
        "",
        "## Trained on",
        "",
        "| | pairs | the text that `colbertz nano` knows by this name |",
        "|---|---|---|",
        *(f"| {name} | {count:,} | {LICENCES.get(name.removesuffix('-cloze'), '')} |" for name, count in data.items()),
        "",
        "## Made by",
        "",
        "```bash",
        command,
        "```",
        "",
        f"With {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
    ]
    if scores:
        lines += [f"## {MEASURE}, with 95 % bootstrap intervals over the queries", "", *_table(scores), ""]
    return "\n".join(lines)


def _table(scores: Mapping[str, Mapping[str, Estimate]]) -> Sequence[str]:
    contenders = list(scores)
    collections = list(dict.fromkeys(name for row in scores.values() for name in row))
    rows = [f"| | {' | '.join(contenders)} |", "|---" * (len(contenders) + 1) + "|"]
    for collection in collections:
        estimates = [scores[contender].get(collection) for contender in contenders]
        cells = [f"{e.mean:.4f} ({e.low:.3f}–{e.high:.3f})" if e else "" for e in estimates]
        rows.append(f"| {collection} | {' | '.join(cells)} |")
    return rows
