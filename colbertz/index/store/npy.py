"""Reading and writing the .npy files of an index."""

from pathlib import Path

import numpy as np

# Bytes up to which a file is read and not mapped. numpy keeps a descriptor for each file that it maps, and most
# segments of an index with many additions are small.
_READ = 1 << 20


def open_array(path: Path) -> np.ndarray:
    """The array of a file, which may be deleted meanwhile: mapped if it is large. It cannot be written to."""
    is_large = path.stat().st_size > _READ
    # A plain array over the mapped memory: numpy's memmap class makes every slice slow.
    array = np.asarray(np.load(path, mmap_mode="r" if is_large else None, allow_pickle=False))
    array.flags.writeable = False  # numba compiles another kernel for arrays that can be written to
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Write what `np.save` writes. On a full disk the error of `np.save` does not say so."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
