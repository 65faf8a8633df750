"""What clients ask of an index, as it is written to its log, and what becomes of it."""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from colbertz.errors import UserError, check_integer, check_list, check_type
from colbertz.index.search.expression import parse
from colbertz.index.write.stream import checked
from colbertz.ragged import Ragged

State = Literal["queued", "done", "failed"]
Value = str | int | float | bool | None
Values = Sequence[Value] | Mapping[str, Value]

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, eq=False)
class Add:
    """Documents to add, with embeddings or with texts that the server's model encodes.

    Attributes:
        texts: a text or None for each document; None for no texts.
        embeddings: the token embeddings of each document; None to encode the texts. They are kept as float16, in which
            the index codes them.
        ids: an id for each document, or None for the next number; None if all are numbered.
        metadata: a dict of JSON values for each document; None for none.
        pool_factor: of texts that are encoded, see `ColBERT.encode_document`.
        on_duplicate: for ids that the index has already: "replace" the old documents, or "error".

    Raises:
        UserError, TypeError: for columns of different lengths, no documents, an id that comes twice, embeddings that
            the index refuses, and values that JSON cannot hold.
    """

    kind: ClassVar = "add"

    texts: Sequence[str | None] | None = None
    embeddings: Ragged | None = None
    ids: Sequence[str | None] | None = None
    metadata: Sequence[dict[str, Any]] | None = None
    pool_factor: int = 1
    on_duplicate: Literal["error", "replace"] = "replace"

    def __post_init__(self) -> None:
        if self.embeddings is not None:
            object.__setattr__(self, "embeddings", checked(self.embeddings))
        elif self.texts is None:
            raise UserError("there are neither texts nor embeddings to add")
        if self.on_duplicate not in ("error", "replace"):
            raise UserError(f'on_duplicate must be "error" or "replace", got {self.on_duplicate!r:.80}')
        check_integer("pool_factor", self.pool_factor, 1)
        for name, kinds, words in (
            ("texts", str | None, "a string or null"),
            ("ids", str | None, "a string or null"),
            ("metadata", dict, "an object"),
        ):
            column = getattr(self, name)
            if column is None:
                continue
            check_list(name, column)
            if len(column) != len(self):
                raise UserError(f"there are {len(column)} {name} for {len(self)} documents")
            for position, value in enumerate(column):
                check_type(f"{name}[{position}]", value, kinds, words)
        if not len(self):
            raise UserError("there are no documents to add")
        if self.embeddings is None and self.texts is not None and None in self.texts:
            raise UserError(f"texts[{self.texts.index(None)}] is null, and there are no embeddings")
        given = self.given_ids
        if len(set(given)) < len(given):
            twice = next(doc_id for doc_id in given if given.count(doc_id) > 1)
            raise UserError(f"two documents have the id {twice!r:.80}; ids must be unique")

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.embeddings) if self.embeddings is not None else len(self.texts or ())

    @property
    def given_ids(self) -> list[str]:
        """The ids of those documents that are not numbered."""
        return [doc_id for doc_id in self.ids or () if doc_id is not None]


@dataclass(frozen=True)
class Delete:
    """Delete the documents for which a condition holds.

    Attributes:
        condition, parameters: as `where` and `parameters` of `SearchOptions`.

    Raises:
        UserError, TypeError: for a condition that is not one, and for parameters that JSON cannot hold.
    """

    kind: ClassVar = "delete"

    condition: str
    parameters: Values = ()

    def __post_init__(self) -> None:
        _check_condition(self.condition, self.parameters)


@dataclass(frozen=True)
class UpdateMetadata:
    """Change the metadata of the documents for which a condition holds.

    Attributes:
        condition, parameters: as `where` and `parameters` of `SearchOptions`.
        updates: the new values of some keys; the others stay.

    Raises:
        UserError, TypeError: as `Delete`, and for updates that are no object of JSON values.
    """

    kind: ClassVar = "update_metadata"

    condition: str
    updates: dict[str, Any] = field(default_factory=dict)
    parameters: Values = ()

    def __post_init__(self) -> None:
        _check_condition(self.condition, self.parameters)
        check_type("updates", self.updates, dict, "an object")


Operation = Add | Delete | UpdateMetadata
_KINDS: dict[str, type[Operation]] = {kind.kind: kind for kind in (Add, Delete, UpdateMetadata)}


@dataclass(frozen=True)
class Task:
    """What became of an operation.

    Attributes:
        id: names it, also after the server was started again.
        kind: "add", "delete" or "update_metadata".
        state: "queued" until the operation is applied, then "done" or "failed".
        generation: of the first state of the index that contains it; None if there is none.
        count: how many documents were added, deleted or changed; None where that is not known, as for an operation
            that was applied just before the server was killed.
        error: why it failed.
    """

    id: str
    kind: str
    state: State = "queued"
    generation: int | None = None
    count: int | None = None
    error: str | None = None


def encode(operation: Operation) -> bytes:
    """The operation as bytes, with the float16 values of embeddings after the rest.

    Raises:
        TypeError: for a value that JSON cannot hold.
        UserError: for text that is not Unicode.
    """
    content = {name: getattr(operation, name) for name in operation.__dataclass_fields__}
    values = b""
    if isinstance(operation, Add) and operation.embeddings is not None:
        embeddings = operation.embeddings
        content["embeddings"] = {"dim": embeddings.values.shape[1], "lengths": embeddings.lengths.tolist()}
        values = embeddings.values.numpy().tobytes()
    try:
        return pack({"kind": operation.kind, **content}, values)
    except UnicodeEncodeError as error:
        raise UserError(f"the {operation.kind} has text that is not Unicode: {error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the {operation.kind} has a value that JSON cannot hold: {error}") from None


def decode(data: bytes) -> Operation:
    """The operation of which `encode` made these bytes."""
    content, values = unpack(data)
    kind = _KINDS[content.pop("kind")]
    if described := content.get("embeddings"):
        tokens = torch.frombuffer(bytearray(values), dtype=torch.float16).view(-1, described["dim"])
        content["embeddings"] = Ragged.from_lengths(tokens, described["lengths"])
    return kind(**content)


def pack(content: dict[str, Any], more: bytes = b"") -> bytes:
    """The length of a JSON object, the object, and further bytes."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return _LENGTH.pack(len(text)) + text + more


def unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    """What `pack` was given."""
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    return json.loads(data[_LENGTH.size : end]), data[end:]


def digest(encoded: bytes) -> str:
    """By which an operation is recognised that a client sends a second time."""
    return hashlib.sha256(encoded).hexdigest()


def _check_condition(condition: str, parameters: object) -> None:
    check_type("condition", condition, str, "an SQL expression")
    check_type("parameters", parameters, (Sequence, Mapping), "a list or an object")
    parse(condition)
