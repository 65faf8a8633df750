"""Write docs/settings.md from the docstrings in colbertz/training/config/: `make generate`."""

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
        "Generated from the docstrings in colbertz/training/config/ by `make generate`. In YAML "
        "the settings of a section are indented below its name; on the command line a dot separates the two, "
        "as in `--optim.lr 1e-4`. Unknown keys are refused.",
        *(_section(name, section) for name, section in SECTIONS.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _section(name: str, section: type) -> str:
    """A heading, the summary of the section, and a table of its settings."""
    summary, meanings = _parse(section)
    rows = ["| key | default | meaning |", "|---|---|---|"]
    kinds = get_type_hints(section)
    for field in fields(section):
        if field.name in SECTIONS:
            continue
        choices = get_args(kinds[field.name]) if get_origin(kinds[field.name]) is Literal else ()
        meaning = meanings[field.name]
        # The choices are listed unless the text names all of them.
        if not all(choice in meaning for choice in choices):
            meaning += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
        # Markdown reads [CLS] [SEP] as a link.
        meaning = re.sub(r"(?<!`)\[[A-Z]+\](?!`)", r"`\g<0>`", meaning)
        rows.append(f"| `{field.name}` | {_default(field)} | {meaning.replace('|', '/')} |")
    title = f"`{name}`" if name else "The run"
    return "\n".join([f"## {title}\n\n{summary}\n", *rows])


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
    """The default value as YAML, in backticks."""
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
