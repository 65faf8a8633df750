"""The types of the fields of the wire format, for `schemas.py`.

Types are strict: "3" is not a number. Numbers that are NaN or infinite are refused everywhere.
"""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# A strict rule: no separators, no leading dot, nothing that a file system treats in a special way.
INDEX_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
# Positions and counts fit SQLite's and numpy's integers.
INT64 = 2**63 - 1


def _finite(value: Any) -> Any:
    """Refuse numbers that JSON cannot hold: `1e999` is read as infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(item)
    return value


IndexName = Annotated[str, Field(pattern=INDEX_NAME, description="letters, digits, dots, - and _; at most 128")]
Count = Annotated[int, Field(ge=1, le=INT64)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Row = Annotated[list[Number], Field(min_length=1)]
Matrix = Annotated[list[Row], Field(min_length=1, description="a row for each token")]
Shape = Annotated[list[Annotated[int, Field(ge=1, le=INT64)]], Field(min_length=2, max_length=2)]
Texts = Annotated[list[str], Field(min_length=1)]
Position = Annotated[int, Field(ge=-INT64, le=INT64)]
# Values of a filter's question marks; SQL compares no lists.
Value = Annotated[str | bool | Annotated[int, Field(ge=-INT64, le=INT64)] | Number | None, AfterValidator(_finite)]
Values = Annotated[list[Value], Field(default_factory=list)]
Metadata = Annotated[dict[str, Any], AfterValidator(_finite)]
DocumentMetadata = Annotated[
    list[Metadata] | None, Field(description="one for each document; its `id`, a string or an integer, names it")
]
Condition = Annotated[
    str, Field(min_length=1, description="an SQL expression over metadata fields", examples=["lang = ? AND year > ?"])
]


class Wire(BaseModel):
    """What all bodies have in common: unknown fields are ignored, types are not converted."""

    model_config = ConfigDict(strict=True, ser_json_inf_nan="null")


def example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})
