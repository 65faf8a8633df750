"""The card of a recipe's model: the data and the command that made it, and its scores on the collections."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from colbertz import __version__
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
    "fever": "claims of FEVER and their evidence in Wikipedia, CC BY-SA 3.0",
    "tldr": "tldr-pages, tasks and commands, CC BY 4.0",
    "nl2bash": "NL2Bash, tasks and shell commands, MIT",
    "scitldr": "SciTLDR, summaries and abstracts, Apache-2.0",
    "dstc9faq": "questions of DSTC9 track 1, Apache-2.0",
    "strategyqa": "StrategyQA, MIT",
    "selqa": "SelQA, Apache-2.0, text of Wikipedia CC BY-SA",
    "qed": "QED, text of Wikipedia CC BY-SA 3.0",
    "squality": "SQuALITY, CC BY 4.0",
    "covidqa": "COVID-QA, Apache-2.0, articles CC BY",
    "python": "source of Python's standard library, PSF-2.0, and of NumPy, PyTorch and SymPy, BSD-3-Clause",
}


@dataclass(frozen=True)
class About:
    """What a card says of all models of a recipe.

    Attributes:
        command: the name of the recipe's command, and of its packaged model.
        licence: of the weights, or None for that of colbertz.
        title: the heading.
        text: the paragraph below it.
    """

    command: str
    licence: str | None
    title: str
    text: str


NANO = About(
    "nano",
    None,
    "A nano ColBERT",
    "A small late-interaction model, trained from scratch by colbertz in the three stages of ColBERT-Zero (arXiv\n"
    "2602.16609). It is meant for trying things out and for tests, and where nothing may be downloaded.",
)
MINI = About(
    "mini",
    "apache-2.0",
    "A mini ColBERT",
    "A small late-interaction model, trained by colbertz from a pretrained encoder. The packaged one starts from\n"
    "all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0), and changes it: the projection to token embeddings is new,\n"
    "and all weights were trained further and are stored as 8-bit integers, with a scale for each row.",
)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of colbertz, Python and these packages, by their names."""
    ours = {"colbertz": __version__, "Python": platform.python_version()}
    return ours | {name: importlib.metadata.version(name) for name in packages}


def card(
    about: About,
    command: str,
    versions: Mapping[str, str],
    data: Mapping[str, int],
    trained_length: int,
    scores: Mapping[str, Mapping[str, Estimate]],
) -> str:
    """The README.md of a model.

    Args:
        about: what it says of all models of the recipe.
        command: the command line that made the model.
        versions: of the packages that made it, by their names.
        data: number of pairs or questions, by the name of their source.
        trained_length: tokens of a document that it was trained on.
        scores: nDCG@10 of the model and of BM25, by the way to search and the collection; may be empty.
    """
    lines = [
        "---",
        "library_name: colbertz",
        *([f"license: {about.licence}"] if about.licence else []),
        "tags: [ColBERT, late-interaction, PyLate]",
        "---",
        "",
        f"# {about.title}",
        "",
        about.text,
        "",
        f"It was trained on the first {trained_length:,} tokens of a document, and reads the first {READ:,}.",
        "",
        "```python",
        "from colbertz import ColBERT",
        "",
        f'model = ColBERT.from_pretrained("FOLDER")    # "colbertz/{about.command}" comes with colbertz',
        "```",
        "",
        "## Trained on",
        "",
        f"| | pairs | the text that `colbertz {about.command}` knows by this name |",
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
