"""What a run of the nano recipe depends on, and the command line that runs it again."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import torch

from colbertz.recipes.steps import DEFAULT_SPLIT
from colbertz.training.config import shipped


def shipped_configs() -> Path:
    """The folder with the stages' settings that comes with colbertz."""
    return shipped("nano")


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    Attributes:
        pairs: folder of .jsonl or .jsonl.gz files, a `query` and its `document` a line.
        collections: folders in BEIR's layout. The model trains on the questions of qrels/train and is judged on those
            of `split`.
        split: the judgements that the model is judged by.
        out: directory for everything that the recipe makes.
        configs: folder with the settings of each stage: unsupervised.yaml and so on.
        seed: of the weights and the order of the data.
        python: also train on the source of the installed Python.
        mlm: warm up with masked language modelling.
        teacher: the model that scores the candidates of stage 3; None for the model of stage 2.
    """

    pairs: Path
    collections: tuple[Path, ...] = ()
    split: str = DEFAULT_SPLIT
    out: Path = Path("runs/nano")
    configs: Path = field(default_factory=shipped_configs)
    seed: int = 0
    python: bool = True
    mlm: bool = False
    teacher: Path | None = None

    @property
    def data(self) -> Path:
        """The directory of the prepared data."""
        return self.out / "data"


def command_line(settings: Settings) -> str:
    """The command that a user typed for these settings, but for --out.

    The number of threads is part of it, because the order in which floating-point numbers are added depends on it.
    """
    words = [f"OMP_NUM_THREADS={torch.get_num_threads()}", "colbertz", "nano"]
    words += ["--pairs", str(settings.pairs), "--seed", str(settings.seed)]
    words += [] if settings.python else ["--no-python"]
    words += ["--mlm"] if settings.mlm else []
    words += ["--teacher", str(settings.teacher)] if settings.teacher else []
    words += ["--configs", str(settings.configs)] if settings.configs != shipped_configs() else []
    words += ["--split", settings.split] if settings.split != DEFAULT_SPLIT else []
    words += ["--collections", *map(str, settings.collections)] if settings.collections else []
    return shlex.join(words)
