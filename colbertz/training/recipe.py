"""Recipes: several stages of training, each of which starts from the model of the stage before.

A recipe is a YAML file with the directory of all runs and the stages, in order:

    output: runs/colbert-zero
    stages:
      unsupervised: {config: unsupervised.yaml}
      supervised: {config: supervised.yaml, set: {batch_size: 32}}
      distillation: {config: distillation.yaml, skip: true}

`config` is the YAML file of the stage's settings, relative to the recipe; `set` overrides settings of that file; `skip`
leaves the stage out. On the command line the stage's name comes first: `--supervised.skip true`,
`--supervised.batch_size 32`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from colbertz.errors import UserError
from colbertz.training import config as settings
from colbertz.training.config import TrainingConfig


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        config: YAML file of its settings.
        arguments: command line arguments that override these settings.
        skip: whether the stage is left out.
    """

    config: Path
    arguments: list[str] = field(default_factory=list)
    skip: bool = False


def is_recipe(argv: Sequence[str]) -> bool:
    """Whether `--config` names a recipe rather than the settings of one run."""
    path = _config_of(argv)
    return path is not None and path.is_file() and "stages" in settings.read_yaml(path)


def runs(argv: Sequence[str]) -> list[TrainingConfig]:
    """The settings of every stage that is not skipped, in order, each starting from the model of the one before.

    Args:
        argv: command line arguments, for which `is_recipe` is true.

    Raises:
        UserError: for a key or stage that does not exist, or anything that `config.load` refuses.
        FileNotFoundError: if the file of a stage does not exist.
    """
    path = _config_of(argv)
    assert path is not None
    output, stages = _read(path)
    for key, value in _overrides(argv):
        name, _, rest = key.partition(".")
        if key == "output":
            output = value
        elif name not in stages or not rest:
            raise UserError(
                f"there is no setting --{key} in a recipe; give --output, or a stage's, as in "
                f"--{next(iter(stages))}.optim.lr"
            )
        elif rest == "skip":
            stages[name] = replace(stages[name], skip=_boolean(key, value))
        else:
            stages[name] = replace(stages[name], arguments=[*stages[name].arguments, f"--{rest}={value}"])
    configs: list[TrainingConfig] = []
    for name, stage in stages.items():
        if stage.skip:
            continue
        arguments = ["--config", str(stage.config), f"--output={Path(output) / name}"]
        if configs:
            arguments += [f"--model.init={Path(configs[-1].output) / 'model'}", "--model.tokenizer=null"]
        try:
            configs.append(settings.load([*arguments, *stage.arguments]))
        except UserError as error:
            raise UserError(f"stage {name} of {path}: {error}") from None
    if not configs:
        raise UserError(f"{path}: all stages are skipped")
    return configs


def _read(path: Path) -> tuple[str, dict[str, Stage]]:
    """The output directory and the stages of a recipe, by name."""
    content = settings.read_yaml(path)
    if (
        set(content) - {"output", "stages"}
        or not isinstance(content.get("output"), str)
        or not isinstance(content["stages"], dict)
    ):
        raise UserError(
            f"{path}: a recipe has the keys output (a directory) and stages (a mapping), got {list(content)}"
        )
    stages = {}
    for name, stage in content["stages"].items():
        stages[str(name)] = _read_stage(path, name, stage)
    if not stages:
        raise UserError(f"{path}: the recipe has no stages")
    return content["output"], stages


def _read_stage(path: Path, name: str, stage: Any) -> Stage:
    if not isinstance(stage, dict) or set(stage) - {"config", "set", "skip"} or "config" not in stage:
        raise UserError(f"{path}: stage {name} may have the keys config, set and skip and needs config, got {stage!r}")
    config, overrides, skip = stage["config"], stage.get("set") or {}, stage.get("skip", False)
    if not (isinstance(config, str) and isinstance(overrides, dict) and isinstance(skip, bool)):
        raise UserError(
            f"{path}: in stage {name} config must be the path of a file, set a mapping and skip true or false, "
            f"got {stage!r}"
        )
    arguments = [f"--{key}={_argument(value)}" for key, value in overrides.items()]
    return Stage(path.parent / config, arguments, skip)


def _argument(value: Any) -> str:
    """A value from YAML as text for the command line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _boolean(key: str, value: str) -> bool:
    parsed = yaml.safe_load(value)
    if not isinstance(parsed, bool):
        raise UserError(f"--{key} must be true or false, got {value!r}")
    return parsed


def _config_of(argv: Sequence[str]) -> Path | None:
    return next((Path(value) for key, value in _pairs(argv) if key == "config"), None)


def _overrides(argv: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in _pairs(argv) if key != "config"]


def _pairs(argv: Sequence[str]) -> list[tuple[str, str]]:
    """The keys and values of arguments `--key value` and `--key=value`."""
    pairs = []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--"):
            raise UserError(f"expected --key value, got {argument!r}")
        key, separator, value = argument[2:].partition("=")
        pairs.append((key, value if separator else next(arguments, "")))
    return pairs
