"""Reading `.npy` files of which nothing is believed: not their size, not their header, not their kind.

NumPy's own reader takes any type, shape and order that the header names, and for a damaged header raises errors of many
kinds. Here a file is an array of the wanted type and number of dimensions, as large as the file, or a `ValueError`.
"""

import ast
import mmap
import os
import re
import stat
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

_MAGIC = b"\x93NUMPY"
# Bytes of the number that says how long the header is, by the format's version.
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
# Longest header. NumPy's own are of 118 bytes.
_MAX_HEADER = 4096
# Bytes of values up to which a file is read and not mapped: Python keeps a descriptor for each file that it maps, and
# most segments of an index with many additions are small.
_READ = 1 << 20
# Bytes from which a file that is read whole must not have parts without space on the disk. No array that is read so
# has long runs of zeros, for which a program that copies files might leave them out.
_LARGE = 1 << 26
_DESCR = re.compile(r"[<>|=]?[a-z][0-9]{1,2}")


def read_array(
    path: Path, dtypes: Sequence[npt.DTypeLike], shape: tuple[int | None, ...] | None, *, mapped: bool = False
) -> np.ndarray:
    """Read an array, without pickle.

    Args:
        path: of the file.
        dtypes: the types that it may have, little-endian.
        shape: what it must have; None for a size that may be any, or for any shape.
        mapped: leave the values on the disk and map them, unless they are few. They cannot be written to.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else than such an array, with what it is.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not a file")
        dtype, found = _read_header(file)
        if not any(dtype == np.dtype(wanted) for wanted in dtypes):
            raise ValueError(f"it holds {dtype}, not {' or '.join(str(np.dtype(wanted)) for wanted in dtypes)}")
        if shape is not None and (
            len(found) != len(shape) or any(want not in (None, size) for want, size in zip(shape, found))
        ):
            wanted_shape = ", ".join("any" if size is None else str(size) for size in shape)
            raise ValueError(f"it has the shape {found}, not ({wanted_shape})")
        begin = file.tell()
        missing = begin + prod(found) * dtype.itemsize - os.fstat(file.fileno()).st_size
        if missing > 0:
            raise ValueError(f"it is cut off: {missing} bytes are missing")
        if not mapped and _has_hole(file.fileno()):
            raise ValueError("a part of it was never written")
        if not mapped or prod(found) * dtype.itemsize <= _READ:
            values = np.fromfile(file, dtype, prod(found))
            if len(values) < prod(found):
                raise ValueError("it was cut off while it was read")
            values.flags.writeable = not mapped  # numba compiles another kernel for arrays that can be written to
            return values.reshape(found)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(content, dtype, prod(found), begin).reshape(found)


def is_whole(path: Path) -> bool:
    """Whether a file is as long as the array that its header describes; the values are not read."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        try:
            dtype, shape = _read_header(file)
        except ValueError:
            return False
        return file.tell() + prod(shape) * dtype.itemsize == os.fstat(file.fileno()).st_size


def save_array(path: Path, array: np.ndarray) -> None:
    """Write what `np.save` writes. On a full disk the error of `np.save` does not say so."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a FIFO to read it would wait until some process writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _has_hole(descriptor: int) -> bool:
    """Whether a large file has parts without space on the disk. It would take memory for what is not there."""
    size = os.fstat(descriptor).st_size
    if size < _LARGE or not hasattr(os, "SEEK_HOLE"):
        return False
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < size
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


def _read_header(file: IO[bytes]) -> tuple[np.dtype, tuple[int, ...]]:
    """The type and the shape of the array that begins at the file's position after this."""
    start = file.read(8)
    size_bytes = _LENGTH_BYTES.get(start[6]) if len(start) == 8 and start[:6] == _MAGIC else None
    if size_bytes is None:
        raise ValueError("it is not an array in the npy format")
    length = int.from_bytes(file.read(size_bytes), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"its header is of {length} bytes")
    text = file.read(length)
    try:
        header = ast.literal_eval(text.decode("latin-1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        header = None
    if len(text) < length or not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"its header is {text!r:.120}")
    descr, shape = header["descr"], header["shape"]
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr):
        raise ValueError(f"its values are of the type {descr!r:.80}")
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 1 << 62 for size in shape):
        raise ValueError(f"its shape is {shape!r:.80}")
    if header["fortran_order"] is not False and len(shape) > 1:
        raise ValueError("its values are in the order of columns")
    try:
        return np.dtype(descr), shape
    except TypeError:
        raise ValueError(f"its values are of the type {descr!r}") from None
