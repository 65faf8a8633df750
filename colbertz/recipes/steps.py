"""What the recipes share: training a stage, refusing results of what is gone, and judging the finished model."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from colbertz import training
from colbertz.errors import UserError
from colbertz.evaluation import read_beir
from colbertz.recipes.card import About, card, versions
from colbertz.recipes.judge import Judgement, estimates, judge_at_lengths, judge_bm25
from colbertz.training import alignment

# The split of the collections that a model is judged by.
DEFAULT_SPLIT = "dev"
# Packages that the data and the model depend on; sympy's source is training data.
_PACKAGES = ("torch", "tokenizers", "numpy", "sympy", "bm25s")


def train(yaml_file: Path, output: Path, *arguments: str) -> Path:
    """Train as the YAML file says, with these arguments after it, and return the directory of the model.

    Raises:
        UserError, FileNotFoundError: for settings or data that cannot be used.
    """
    training.main(["--config", str(yaml_file), f"--output={output}", *arguments])
    return output / "model"


def train_argument(sources: Sequence[dict[str, object]]) -> str:
    """The argument of a training command that sets its data."""
    return f"--data.train={yaml.safe_dump(list(sources), default_flow_style=True, width=10**9).strip()}"


def refuse_leftovers(steps: Iterable[tuple[Path, Path]]) -> None:
    """Refuse the result of a step whose predecessor was removed: it was made of something else.

    Args:
        steps: (result of the step before, result of the step).

    Raises:
        UserError: for such a result.
    """
    for before, after in steps:
        if after.exists() and not before.exists():
            raise UserError(f"{after} was made of {before}, which is gone; delete the former to make both anew")


def judge_with_card(
    about: About,
    model: Path,
    trained: Path,
    collections: Iterable[Path],
    split: str,
    command: str,
    counts: dict[str, int],
) -> dict[str, Judgement]:
    """Judge a finished model and BM25, and write the model's card.

    Args:
        about: what the card says of all models of the recipe.
        model: directory of the finished model. It gets the record of what `trained` was trained on: it reads more than
            that, and training it further needs the record.
        trained: directory of the model that the last stage left.
        collections: folders in BEIR's layout.
        split: the judgements of them.
        command: what made the model.
        counts: the number of pairs or questions of each source.

    Returns:
        Judgements by the names of the collections.
    """
    trained_length = json.loads((trained / alignment.RECORD).read_text(encoding="utf-8"))["document_length"]
    shutil.copy(trained / alignment.RECORD, model)
    judgements: dict[str, Judgement] = {}
    for directory in collections:
        collection = read_beir(directory, split)
        judgements |= judge_at_lengths(model, trained_length, collection)
        judgements[collection.name] |= judge_bm25(collection)
    text = card(about, command, versions(_PACKAGES), counts, trained_length, estimates(judgements))
    (model / "README.md").write_text(text, encoding="utf-8")
    return judgements
