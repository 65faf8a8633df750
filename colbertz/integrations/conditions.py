"""Filters of other frameworks as the index's expressions: SQL over the metadata, with the values as parameters."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from colbertz.index.search.options import SqlValue

# An expression, and the values for its question marks.
Condition = tuple[str, Sequence[SqlValue]]
# Names that an expression reads as something else than the metadata key.
_RESERVED = {"id", "text", "metadata", "rowid"}
_SIGNS = {"==": "is", "!=": "is not", ">": ">", ">=": ">=", "<": "<", "<=": "<="}


def field(name: str) -> str:
    """The expression for a metadata key."""
    if name.lower() in _RESERVED:
        return f"metadata ->> '$.{name}'"
    return '"' + name.replace('"', '""') + '"'


def compare(expression: str, sign: str, value: Any) -> Condition:
    """A comparison with ==, !=, >, >=, < or <=. A key that a document does not have equals None, and nothing else."""
    return f"{expression} {_SIGNS[sign]} ?", [value]


def one_of(expression: str, values: Iterable[object], negated: bool = False) -> Condition:
    """Whether the value is one of several; negated, a missing value counts as none of them."""
    inside = f"{expression} in (select value from json_each(?))"
    return f"not coalesce({inside}, 0)" if negated else inside, [json.dumps(list(values))]


def has_element(expression: str, value: Any) -> Condition:
    """Whether a list in the metadata has this element."""
    return f"exists (select 1 from json_each({expression}) where value = ?)", [value]


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Those that meet every condition."""
    return _joined(" and ", conditions)


def any_of(conditions: Sequence[Condition]) -> Condition:
    """Those that meet one condition at least."""
    return _joined(" or ", conditions)


def none_of(conditions: Sequence[Condition]) -> Condition:
    """Those that do not meet all of the conditions together."""
    expression, values = all_of(conditions)
    return f"not coalesce({expression}, 0)", values


def equal(fields: Mapping[str, Any]) -> Condition:
    """Those whose metadata have these values; a list stands for any of its elements."""
    return all_of(
        [
            one_of(field(name), value) if isinstance(value, list | tuple | set) else compare(field(name), "==", value)
            for name, value in fields.items()
        ]
    )


def _joined(word: str, conditions: Sequence[Condition]) -> Condition:
    if not conditions:
        return "true", []
    values = [value for _, parameters in conditions for value in parameters]
    return word.join(f"({expression})" for expression, _ in conditions), values
