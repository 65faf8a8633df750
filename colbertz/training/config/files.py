"""Reading YAML files, writing the settings of a run, and comparing those of two runs."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from colbertz.errors import UserError
from colbertz.training.config.run import TrainingConfig

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


def shipped(name: str) -> Path:
    """A file or folder of configs/: the current directory's, or the one that came with colbertz."""
    folders = [Path("configs"), Path(__file__).parents[2] / "configs"]
    return next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        UserError: if it is not YAML in UTF-8, has a key twice, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML in UTF-8: {' '.join(str(error).split())}") from None
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
