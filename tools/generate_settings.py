"""Writes docs/settings.md from colbertz/training/config.py: `python tools/generate_settings.py`."""

import inspect
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from colbertz.training import config

SECTIONS = {
    "": config.TrainingConfig,
    "model": config.ModelConfig,
    "data": config.DataConfig,
    "data.train[]": config.SourceConfig,
    "loss": config.LossConfig,
    "optim": config.OptimConfig,
    "eval": config.EvalConfig,
}
PAGE = Path(__file__).parents[1] / "docs/settings.md"


def page() -> str:
    """The whole page."""
    parts = [
        "# Settings of a training run",
        "Generated from colbertz/training/config.py by `python tools/generate_settings.py`. A dot leads into a "
        "section, in YAML by indentation and on the command line as in `--optim.lr 1e-4`. Unknown keys are refused.",
    ]
    for name, section in SECTIONS.items():
        summary, meanings = _parse(section)
        parts.append(f"## {f'`{name}`' if name else 'The run'}\n\n{summary}")
        rows = ["| key | default | meaning |", "|---|---|---|"]
        kinds = get_type_hints(section)
        for field in fields(section):
            if field.name in SECTIONS:
                continue
            choices = get_args(kinds[field.name]) if get_origin(kinds[field.name]) is Literal else ()
            # Where the text explains each choice there is no need to list them.
            listed = [choice for choice in choices if choice not in meanings[field.name]]
            meaning = meanings[field.name] + (f" One of {', '.join(f'`{c}`' for c in choices)}." if listed else "")
            # Markdown takes [CLS] [SEP] for a link.
            meaning = re.sub(r"(?<!`)\[[A-Z]+\](?!`)", r"`\g<0>`", meaning)
            rows.append(f"| `{field.name}` | {_default(field)} | {meaning.replace('|', '/')} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _parse(section: type) -> tuple[str, dict[str, str]]:
    """The summary of a docstring and the meaning of each attribute."""
    summary, _, attributes = inspect.cleandoc(section.__doc__ or "").partition("\n\nAttributes:\n")
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(attributes).splitlines():
        if started := re.match(r"(\w+(?:, \w+)*): (.*)", line):
            names = started[1].split(", ")
            meanings |= dict.fromkeys(names, started[2])
        else:
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
    return " ".join(summary.split()), {name: f"{text[0].upper()}{text[1:]}" for name, text in meanings.items()}


def _default(field: "Field[Any]") -> str:
    if field.default_factory is not MISSING:
        value = field.default_factory()
    elif field.default is MISSING:
        return "required"
    else:
        value = field.default
    if value is None or isinstance(value, bool):
        return "`null`" if value is None else f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple | list) else value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
