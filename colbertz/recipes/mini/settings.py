"""What a run of the mini recipe depends on, and the command line that runs it again."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import torch

from colbertz.recipes.mini.start import PACKAGE
from colbertz.recipes.steps import DEFAULT_SPLIT
from colbertz.training.config import shipped


def shipped_configs() -> Path:
    """The folder with the stages' settings that comes with colbertz."""
    return shipped("mini")


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        pairs: folder of .jsonl or .jsonl.gz files, a `query` and its `document` a line.
        questions: folders of such files whose queries people asked: no cloze questions are made of their documents.
        init: the pretrained encoder: a directory, a hub id, or the name of the package that has it.
        collections: folders in BEIR's layout. The model trains on the questions of qrels/train and is judged on those
            of `split`.
        split: the judgements that the model is judged by.
        out: directory for everything that the recipe makes.
        configs: folder with the settings of each stage: contrastive.yaml and supervised.yaml.
        seed: of new weights, of the negatives and of the order of the data.
        python: also train on the source of the installed Python.
    """

    pairs: Path
    questions: tuple[Path, ...] = ()
    init: str = PACKAGE
    collections: tuple[Path, ...] = ()
    split: str = DEFAULT_SPLIT
    out: Path = Path("runs/mini")
    configs: Path = field(default_factory=shipped_configs)
    seed: int = 0
    python: bool = True

    @property
    def data(self) -> Path:
        """The directory of the prepared data."""
        return self.out / "data"


def command_line(settings: Settings) -> str:
    """The command that a user typed for these settings, but for --out.

    The number of threads is part of it, because the order in which floating-point numbers are added depends on it.
    """
    words = [f"OMP_NUM_THREADS={torch.get_num_threads()}", "colbertz", "mini", "--init", settings.init]
    words += ["--pairs", str(settings.pairs), "--seed", str(settings.seed)]
    words += ["--questions", *map(str, settings.questions)] if settings.questions else []
    words += [] if settings.python else ["--no-python"]
    words += ["--configs", str(settings.configs)] if settings.configs != shipped_configs() else []
    words += ["--split", settings.split] if settings.split != DEFAULT_SPLIT else []
    words += ["--collections", *map(str, settings.collections)] if settings.collections else []
    return shlex.join(words)
