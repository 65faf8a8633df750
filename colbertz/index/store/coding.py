"""How the residuals of an index are coded."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from colbertz.errors import UserError, check_integer
from colbertz.index.store.layout import CENTROID_FILES, NBITS, PRODUCT_FILES, ROTATION_FILE, SCALAR_FILES

# "scalar": nbits for each dimension (scalar.py). "pq": a byte for each part (product.py). "opq": the same after a
# learned rotation.
CodecKind = Literal["scalar", "pq", "opq"]
DEFAULT_NBITS = 4


@dataclass(frozen=True)
class Coding:
    """How residuals are coded.

    Attributes:
        kind: "scalar", "pq" or "opq".
        nbits: bits for each dimension, or with "pq" and "opq" for each part: 8.
        bytes_per_token: the parts of "pq" and "opq"; None for a quarter of the dimension. Not for "scalar".
    """

    kind: CodecKind = "scalar"
    nbits: int = DEFAULT_NBITS
    bytes_per_token: int | None = None

    @classmethod
    def checked(cls, kind: str, nbits: int | None, bytes_per_token: int | None) -> "Coding":
        """What the arguments of a build ask for.

        Raises:
            UserError: for an unknown codec or `nbits`, and for an option of another codec.
        """
        if kind not in get_args(CodecKind):
            raise UserError(f"codec must be one of {', '.join(get_args(CodecKind))}, got {kind!r}")
        if kind == "scalar":
            if bytes_per_token is not None:
                raise UserError(
                    f'bytes_per_token is {bytes_per_token!r} and the codec "scalar" has nbits instead; leave it out, or'
                    ' choose the codec "pq"'
                )
            nbits = DEFAULT_NBITS if nbits is None else nbits
            if nbits not in NBITS:
                raise UserError(f"nbits must be one of {', '.join(map(str, NBITS))}, got {nbits!r}")
            return cls(nbits=nbits)
        if nbits is not None:
            raise UserError(f"nbits is {nbits!r} and the codec {kind!r} has bytes_per_token instead; leave nbits out")
        if bytes_per_token is not None:
            check_integer("bytes_per_token", bytes_per_token, 1)
        return cls("pq" if kind == "pq" else "opq", 8, bytes_per_token)

    @property
    def codec_files(self) -> tuple[str, ...]:
        """The files of the codec's folder."""
        if self.kind == "scalar":
            return (*CENTROID_FILES, *SCALAR_FILES)
        return (*CENTROID_FILES, *PRODUCT_FILES, *((ROTATION_FILE,) if self.kind == "opq" else ()))

    def row_bytes(self, dim: int) -> int:
        """Bytes of a token's residual.

        Raises:
            UserError: if embeddings of this dimension cannot be coded so.
        """
        if self.kind == "scalar":
            if dim * self.nbits % 8:
                raise UserError(
                    f"embeddings of dimension {dim} do not fill whole bytes with nbits {self.nbits}: the dimension must"
                    f" be a multiple of {8 // self.nbits}"
                )
            return dim * self.nbits // 8
        num_bytes = max(1, dim // 4) if self.bytes_per_token is None else self.bytes_per_token
        if not 1 <= num_bytes <= dim:
            raise UserError(
                f"bytes_per_token is {num_bytes} and must be at most the dimension of the embeddings, {dim}"
            )
        return num_bytes

    def fault(self, dim: int) -> str | None:
        """What a manifest cannot say, in words; None if it can. The fields may be of any type that JSON has."""
        number: Any = self.bytes_per_token
        if self.kind not in ("pq", "opq"):
            return "its kind is neither pq nor opq"
        if type(number) is not int or not 1 <= number <= dim:
            return f"its bytes_per_token are not between 1 and {dim}"
        return None if self.nbits == 8 else "its nbits are not 8"

    def __str__(self) -> str:
        if self.kind == "scalar":
            return f"of {self.nbits} bits"
        return f"in {self.bytes_per_token} bytes by {self.kind}"
