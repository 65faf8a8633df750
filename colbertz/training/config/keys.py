"""Refusing settings that do not exist, with the name of the nearest one that does.

The parser refuses them too, with messages that help less.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from colbertz.errors import UserError
from colbertz.training.config.files import read_yaml
from colbertz.training.config.run import TrainingConfig

# Options of the parser that are no settings.
_OTHER_OPTIONS = {"help", "print_config"}


def check_arguments(argv: Sequence[str]) -> None:
    """Check the names of all settings in command line arguments and in the YAML file that `--config` names.

    Raises:
        UserError: for a setting that does not exist, or a section of the file that holds no settings.
        FileNotFoundError: if the YAML file does not exist.
    """
    sections = dict(_all_settings(TrainingConfig))
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        key, separator, value = argument[2:].partition("=")
        if key == "config":
            _check_file(value if separator else next(arguments, ""), sections)
        elif key not in sections and key not in _OTHER_OPTIONS:
            raise UserError(_unknown(key, sections, "--"))


def _check_file(name: str, sections: dict[str, bool]) -> None:
    if not name:
        raise UserError("--config needs the path of a YAML file; see configs/ for examples")
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {name!r}; see configs/ for examples")
    for key, value in _settings_in(read_yaml(path), sections):
        if key not in sections:
            raise UserError(f"{path}: {_unknown(key, sections)}")
        if sections[key]:
            raise UserError(f"{path}: {key} is a section and must hold settings, got {value!r:.60}")


def _all_settings(config: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted names of all settings, and whether each is a section."""
    for name, kind in get_type_hints(config).items():
        is_section = is_dataclass(kind)
        yield f"{prefix}{name}", is_section
        if is_section:
            assert isinstance(kind, type)
            yield from _all_settings(kind, f"{prefix}{name}.")
        for option in get_args(kind):
            for part in get_args(option):
                if is_dataclass(part):  # a list of sections
                    assert isinstance(part, type)
                    yield from _all_settings(part, f"{prefix}{name}[].")


def _settings_in(content: dict[str, Any], sections: dict[str, bool], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the settings in the content of a YAML file."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and sections.get(key):
            yield from _settings_in(value, sections, f"{key}.")
        elif isinstance(value, list) and any(name.startswith(f"{key}[].") for name in sections):
            for part in value:
                if isinstance(part, dict):
                    yield from _settings_in(part, sections, f"{key}[].")
                else:
                    yield key, part
        else:
            yield key, value


def _unknown(key: str, sections: dict[str, bool], dashes: str = "") -> str:
    # The right name in the wrong section is as likely as a misspelt name in the right section.
    last = key.rsplit(".", 1)[-1]
    nearest = difflib.get_close_matches(key, sections, n=1)
    nearest = nearest or [name for name in sections if name.rsplit(".", 1)[-1] == last]
    valid = ", ".join(name for name, is_section in sections.items() if not is_section)
    hint = f"did you mean {dashes}{nearest[0]}?" if nearest else f"valid are {valid}"
    return f"there is no setting {dashes}{key}; {hint}"
