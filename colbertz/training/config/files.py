"""Reading YAML files, writing the settings of a run, and comparing those of two runs."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from colbertz.errors import UserError
from colbertz.training.config.run import TrainingConfig
from colbertz.untrusted import read_text

# Settings that may differ between a run and the run that it resumes: they do not change the result.
_WITHOUT_EFFECT_ON_THE_RESULT = {
    "output",
    "data.num_workers",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "overwrite",
    "tensorboard",
    "wandb",
}

# Bytes of a YAML file. PyYAML is slow, and configurations have a few thousand.
_MOST_BYTES = 2**18
# Levels of values within values. PyYAML's time grows with their square.
_MOST_LEVELS = 50


def shipped(name: str) -> Path:
    """A file or folder of configs/: the current directory's, or the one that came with colbertz."""
    folders = [Path("configs"), Path(__file__).parents[2] / "configs"]
    return next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not YAML in UTF-8, is no ordinary file, holds too much, has a
            key twice, or holds something else.
    """
    text = read_text(path, most_bytes=_MOST_BYTES, anywhere=True)
    try:
        _refuse_bombs(text, path)
        content = yaml.safe_load(text)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # ValueError: a number or date that Python cannot hold.
        raise UserError(f"{path} is not valid YAML in UTF-8: {' '.join(str(error).split()):.300}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, such as 'output: runs/mine', got {content!r:.60}")
    _refuse_repeated_keys(yaml.compose(text), path)
    return content


def _refuse_repeated_keys(node: Any, path: Path) -> None:
    """PyYAML takes the last value of a key that comes twice."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, path)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            first = lines.setdefault(key.value, line)
            if first != line:
                raise UserError(f"{path}, line {line}: the key {key.value!r} comes twice; it is in line {first} too")
            _refuse_repeated_keys(value, path)


def _refuse_bombs(text: str, path: Path) -> None:
    """Raise UserError for YAML that is short and stands for very much."""
    levels = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1
        if levels > _MOST_LEVELS:
            raise UserError(f"{path}, line {line}: more than {_MOST_LEVELS} levels of values within values")
        if isinstance(event, yaml.AliasEvent):
            raise UserError(
                f"{path}, line {line}: aliases such as *{event.anchor} are not supported, because a few of them can "
                "stand for billions of values; write the values out"
            )


def dump(config: TrainingConfig) -> str:
    """The settings as YAML that `load` reads back."""
    return yaml.safe_dump(_plain(config), sort_keys=False)


def differences(before: TrainingConfig, now: TrainingConfig) -> list[str]:
    """The settings that differ between two runs and change the result, each as "key: old, now new"."""
    old, new = (dict(_leaves(_plain(config))) for config in (before, now))
    return [
        f"{key}: {old.get(key)!r:.60}, now {new.get(key)!r:.60}"
        for key in new
        if key not in _WITHOUT_EFFECT_ON_THE_RESULT and old.get(key) != new[key]
    ]


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the value of every setting."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    """Settings as dictionaries, lists and plain values."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value
