"""Damage to a file of a directory, chosen by random numbers: by a disk, by somebody's copying, or by a hostile writer.

`random_damage` says in words what it did, so that a trial can be understood from its name.
"""

import json
import math
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from colbertz.index.store.documents import quoted

ABSURD: list[Any] = [
    *(0, -1, 1, 2, 255, 65_535, 10**6, 2**31 - 1, 2**31, 2**32, 10**12, 2**62, 2**63 - 1, 2**63, 2**64, 10**40),
    *(-(2**31), -(2**63), 0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf, True, False, None),
    *("", "x", "a" * 5000, "\0", "\ud800", "../x", "/etc/passwd", "٣", "[MASK]", "9" * 5000),
    *([], {}, [[]], [None], {"a": {}}, [0] * 2000, {"": 0}),
]
_SQLITE_ABSURD: list[Any] = [
    *(None, 0, -1, 2**31, 2**63 - 1, -(2**63), 1e300, "", "x" * 100_000, "\0", "{}", "[" * 50_000, b"", b"\xff" * 7),
    *(b"\xff\xff\xff\x7f" * 100, b"\0" * 100_000, '{"a": NaN}', "\U0010ffff"),
]
# What a line of a text file may suddenly hold.
_PIECES = [
    *(b'"', b"\n", b"\r", b"\t", b",", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b"[" * 20_000, b"9" * 5000, b"\\u"),
    *(b'{"_id": 1}\n', b'"' * 9999, b"x" * 200_000, b"NaN", b"1e999", b"\xed\xa0\x80", b"-0", b"null"),
]


def random_damage(
    root: Path, numbers: random.Random, kept: Callable[[Path], bool] = lambda path: False
) -> tuple[str, bool]:
    """Damage a file in a folder.

    Args:
        root: the folder.
        numbers: choose the file and the damage.
        kept: tells which files stay as they are.

    Returns:
        What was done, and whether it was done as a hostile writer does it, who could make checksums agree again.
    """
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not kept(path)]
    path = numbers.choice(files)
    by_value = _BY_VALUE.get(path.suffix)
    name = path.relative_to(root).as_posix()
    if by_value and numbers.random() < 0.4:
        state = numbers.getstate()
        with suppress(ValueError, OverflowError, TypeError, IndexError, sqlite3.Error, RuntimeError):
            return f"{name}: {by_value(path, numbers)}", True
        numbers.setstate(state)  # the value cannot be there: something else is damaged
    kind = numbers.choice(_OF_BYTES)
    if kind is _swap:
        other = numbers.choice(files)
        return f"{name}: {_swap(path, other, numbers)} {other.relative_to(root).as_posix()}", False
    return f"{name}: {kind(path, numbers)}", False


def _flip(path: Path, numbers: random.Random) -> str:
    content = bytearray(path.read_bytes())
    if not content:
        return "is empty"
    count = numbers.choice([1, 1, 1, 2, 8])
    places = []
    for _ in range(count):
        # Of a file with a header, the beginning has more meaning than the rest.
        most = len(content) if numbers.random() < 0.7 else min(len(content), 256)
        place = numbers.randrange(most)
        if numbers.random() < 0.3:
            place = min(place | 3, len(content) - 1)  # the byte with the highest bits of a number of 4 bytes
        bit = numbers.choice([0, 1, 2, 3, 4, 5, 6, 7, 7, 7])
        content[place] ^= 1 << bit
        places.append(f"{place}.{bit}")
    path.write_bytes(content)
    return f"flip {' '.join(places)}"


def _cut(path: Path, numbers: random.Random) -> str:
    size = path.stat().st_size
    left = numbers.choice([0, 1, max(size - 1, 0), numbers.randrange(size + 1), min(size, 128)])
    os.truncate(path, left)
    return f"cut to {left} of {size}"


def _grow(path: Path, numbers: random.Random) -> str:
    more = numbers.choice([b"\0", b"x", b"\n", bytes(4096), numbers.randbytes(100), path.read_bytes()])
    with path.open("ab") as file:
        file.write(more)
    return f"{len(more)} bytes more"


def _sparse(path: Path, numbers: random.Random) -> str:
    size = numbers.choice([1 << 28, 1 << 34, 1 << 40])
    os.truncate(path, size)
    return f"made {size} bytes long"


def _blank(path: Path, numbers: random.Random) -> str:
    content = bytearray(path.read_bytes())
    if not content:
        return "is empty"
    begin = numbers.randrange(len(content))
    end = min(len(content), begin + numbers.choice([1, 4, 8, 64, 512, 4096, 1 << 20]))
    fill = numbers.choice([bytes(end - begin), b"\xff" * (end - begin), numbers.randbytes(end - begin)])
    content[begin:end] = fill
    path.write_bytes(content)
    return f"bytes {begin} to {end} are {fill[:4].hex()}…"


def _move_bytes(path: Path, numbers: random.Random) -> str:
    content = path.read_bytes()
    begin, end = sorted(numbers.randrange(len(content) + 1) for _ in range(2))
    if numbers.random() < 0.5:
        path.write_bytes(content[:begin] + content[end:])
        return f"without bytes {begin} to {end}"
    path.write_bytes(content[:end] + content[begin:])
    return f"bytes {begin} to {end} twice"


def _remove(path: Path, numbers: random.Random) -> str:
    path.unlink()
    return "removed"


def _no_file(path: Path, numbers: random.Random) -> str:
    path.unlink()
    kind = numbers.choice(["pipe", "folder", "device", "link to itself", "link to nothing"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "link to itself": path.name}.get(kind, "nothing"))
    return f"is a {kind}"


def _swap(path: Path, other: Path, numbers: random.Random) -> str:
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    if numbers.random() < 0.5:
        return "is a copy of"
    other.write_bytes(first)
    return "swapped with"


_OF_BYTES: list[Callable[..., str]] = [_flip] * 6 + [_cut] * 2 + [_blank] * 2
_OF_BYTES += [_grow, _sparse, _move_bytes, _remove, _no_file, _swap, _swap]


def _places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in parsed JSON, of large tables only of the first."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in list(pairs)[:30] for place in _places(value, (*path, key)))]


def _json(path: Path, numbers: random.Random) -> str:
    content = {"": json.loads(path.read_text("utf-8"))}
    place = numbers.choice(_places(content[""]))
    holder: Any = content
    for key in ("", *place)[:-1]:
        holder = holder[key]
    last = ("", *place)[-1]
    what = numbers.choice(["value", "value", "value", "without", "more"])
    value = numbers.choice(ABSURD)
    if what == "without" and place:
        del holder[last]
    elif what == "more" and isinstance(holder[last], dict):
        holder[last]["surprise"] = value
    elif what == "more" and isinstance(holder[last], list):
        holder[last] += [value, *holder[last]]
    else:
        holder[last] = value
    path.write_text(json.dumps(content.get("")), "utf-8", errors="surrogatepass")
    return f"{'.'.join(map(str, place))} {what} {value!r:.40}"


def _numbers(array: np.ndarray, numbers: random.Random) -> tuple[np.ndarray, str]:
    """The array with absurd numbers, or with another type or shape."""
    array = array.copy()
    change = numbers.choice(["numbers", "numbers", "numbers", "type", "shape", "order"])
    if change == "type":
        dtype = numbers.choice("<i1 <i2 <i4 <i8 <u1 <u2 <u4 <u8 <f2 <f4 <f8 >u2 >f4 ?".split())
        with np.errstate(all="ignore"):
            return array.astype(dtype), dtype
    if change == "shape":
        rows = numbers.randrange(len(array)) if array.ndim and len(array) else 0
        shapes = [array.reshape(-1)[:0], array.reshape(-1), array[None], array[:rows], np.concatenate([array, array])]
        array = numbers.choice(shapes)
        return array, f"shape {array.shape}"
    if change == "order":
        return np.asfortranarray(array[::-1]), "the other order"
    value = numbers.choice([x for x in ABSURD if type(x) in (int, float)])
    flat = array.reshape(-1)
    begin = numbers.randrange(len(flat))
    end = numbers.choice([begin + 1, begin + 1, begin + 2, len(flat)])
    with np.errstate(all="ignore"):
        if array.dtype.kind in "iu":
            size = 8 * array.dtype.itemsize
            bits = int(value) % (1 << size) if math.isfinite(value) else 0
            flat[begin:end] = np.array(bits, f"u{array.dtype.itemsize}").astype(array.dtype)
        else:
            flat[begin:end] = float(value)
    return array, f"{begin}:{end} = {value!r:.20}"


def _npy(path: Path, numbers: random.Random) -> str:
    array, what = _numbers(np.load(path, allow_pickle=False), numbers)
    with path.open("wb") as file:
        np.save(file, array)
    return what


def _pt(path: Path, numbers: random.Random) -> str:
    content = torch.load(path, weights_only=True)
    keys: Any = list(content) if isinstance(content, dict) else range(len(content))
    if isinstance(content, torch.Tensor):
        content, what = _tensor(content, numbers)
    else:
        key = numbers.choice(keys)
        parts = content if isinstance(content, dict) else list(content)
        parts[key], what = _tensor(parts[key], numbers)
        content = parts
    torch.save(content, path)
    return what


def _tensor(tensor: torch.Tensor, numbers: random.Random) -> tuple[Any, str]:
    kind = numbers.choice(["numbers", "numbers", "numbers", "view", "sparse", "number", "type"])
    if kind == "view":
        return tensor.reshape(-1)[:1].expand(1 << 40), "a view of 2^40"
    if kind == "sparse":
        return tensor.to_sparse(), "sparse"
    if kind == "number":
        return 7, "a number"
    if kind == "type":
        return tensor.to(torch.bfloat16), "bfloat16"
    array, what = _numbers(tensor.numpy(), numbers)
    return torch.from_numpy(np.ascontiguousarray(array)), what


def _safetensors(path: Path, numbers: random.Random) -> str:
    tensors = load_file(path)
    name = numbers.choice(sorted(tensors))
    if numbers.random() < 0.2:
        tensors[f"{name}.more"] = tensors.pop(name)
        what = "renamed"
    else:
        array, what = _numbers(tensors[name].float().numpy(), numbers)
        tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
    save_file(tensors, path)
    return f"{name} {what}"


def _sqlite(path: Path, numbers: random.Random) -> str:
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = quoted(numbers.choice(sorted(tables)))
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if not columns:
            raise ValueError(table)
        column = quoted(numbers.choice(columns))
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        value, some = numbers.choice(_SQLITE_ABSURD), numbers.choice(["0", "1 - 1", "count", "all"])
        where = "" if some == "all" else f" WHERE {column} IN (SELECT {column} FROM {table} LIMIT 1 OFFSET ?)"
        change = numbers.choice(
            [f"UPDATE OR REPLACE {table} SET {column} = ?", f"UPDATE {table} SET {column} = ?", f"DELETE FROM {table}"]
        )
        values = ([value] if "?" in change else []) + (
            [numbers.randrange(count)] if where and count else [0] * bool(where)
        )
        connection.execute(change + where, values)
        if numbers.random() < 0.2:
            change += f"; ALTER TABLE {table} ADD more"
            connection.execute(f"ALTER TABLE {table} ADD more")
        connection.commit()
    return f"{change}{where} {value!r:.30}"


def _text(path: Path, numbers: random.Random) -> str:
    content = path.read_bytes()
    piece = numbers.choice(_PIECES)
    place = numbers.randrange(len(content) + 1)
    path.write_bytes(content[:place] + piece + content[place + numbers.choice([0, len(piece), 5]) :])
    return f"{piece[:12]!r} at {place}"


_BY_VALUE: dict[str, Callable[[Path, random.Random], str]] = {
    ".json": _json,
    ".metadata": _json,
    ".npy": _npy,
    ".pt": _pt,
    ".bin": _pt,
    ".safetensors": _safetensors,
    ".sqlite": _sqlite,
    ".db": _sqlite,
    **dict.fromkeys([".jsonl", ".csv", ".tsv", ".txt", ".yaml", ".trec"], _text),
}
