"""What the GPU benchmarks share: machine, timing, lower bounds of times, a check before each timing, the table.

The device's own two rates are measured first: copying within its memory (bytes read and written), and a bf16 product of
8192³. The bytes that a kernel must read and write, and the products it must compute, divided by these rates, give the
least time it can take, its floor; "× floor" is the measured time divided by it.

Short kernels are captured in a CUDA graph over several sets of inputs, together larger than the L2 cache, so that
neither the host's launches nor the cache affect the time; "with launch" is the time of the same calls one by one. Data
are random, never zeros. Every result is compared with float32 before it is timed.

With `--dry` everything runs on the CPU, kernels in Triton's interpreter, at sizes that only show that it works.
Import this module before anything that may import Triton.
"""

import argparse
import contextlib
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = str(int("--dry" in sys.argv))
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns if this is not set

import torch
from torch import Tensor

from colbertz import Ragged
from colbertz.kernels.arrays import Texts
from colbertz.maxsim import Backend

ROOT = Path(__file__).parents[2]
DRY = "--dry" in sys.argv
DEVICE = "cpu" if DRY else "cuda"
sys.path.append(str(ROOT / "benchmarks"))  # after this folder, so that `common` is this module there too
if DRY:
    sys.path.append(str(ROOT / "tests"))
    importlib.import_module("interpreter").repair()
# The `backend` of colbertz.maxsim: in a dry run Triton's kernels, in its interpreter, for tensors on the CPU.
BACKEND: Backend | None = "triton" if DRY else None
# Bytes that a round over several sets of inputs moves at least: a few times the L2 cache.
_ROUND = 1 << 29
Calls = Sequence[Callable[[], Any]]


def sized(real: Any, dry: Any) -> Any:
    return dry if DRY else real


def arguments(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU; writes nothing but --out")
    parser.add_argument("--out", type=Path, help="where the JSON goes instead of benchmarks/results")
    return parser


# -- the machine -----------------------------------------------------------------------------------------------------


def versions(*packages: str) -> dict[str, str]:
    by_name = {}
    for name in ("torch", "triton", *packages):
        with contextlib.suppress(metadata.PackageNotFoundError):
            by_name[name] = metadata.version(name)
    return by_name


def machine(*packages: str) -> dict[str, Any]:
    """The device, the versions, and the device's two rates."""
    if not DRY and not torch.cuda.is_available():
        sys.exit("there is no CUDA device; --dry runs everything on the CPU")
    about: dict[str, Any] = {"device": "dry run on the CPU" if DRY else torch.cuda.get_device_name()}
    about |= {"python": platform.python_version(), **versions(*packages), "CUDA": torch.version.cuda}
    return about | {"copy GB/s": copy_rate() / 1e9, "matmul TFLOP/s": matmul_rate() / 1e12}


def copy_rate() -> float:
    """Bytes read and written a second by a copy within the device's memory."""
    source = torch.randint(256, (sized(1 << 31, 1 << 16),), dtype=torch.uint8, device=DEVICE)
    copy = torch.empty_like(source)
    return 2e3 * len(source) / event_ms(lambda: copy.copy_(source), 20)


def matmul_rate() -> float:
    """Operations a second of a product of two bf16 matrices of 8192 × 8192."""
    n = sized(8192, 64)
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2e3 * n**3 / event_ms(lambda: a @ b, 20)


def floor_ms(about: dict[str, Any], nbytes: float, flops: float = 0) -> float:
    """The least that a computation can take: `nbytes` through memory, `flops` through the tensor cores."""
    return max(nbytes / about["copy GB/s"] / 1e6, flops / about["matmul TFLOP/s"] / 1e9)


# -- timing ----------------------------------------------------------------------------------------------------------


def sets_for(nbytes: int) -> int:
    """The number of sets of inputs of this size in a round."""
    return 2 if DRY else max(2, min(16, -(-_ROUND // nbytes)))


def event_ms(run: Callable[[], Any], repeats: int = 10) -> float:
    """The median time of a call on the device, in milliseconds; it may include the time of the launch."""
    for _ in range(0 if DRY else 2):
        run()
    times = []
    for _ in range(1 if DRY else repeats):
        with stopwatch() as watch:
            run()
        times.append(watch.ms())
    return statistics.median(times)


@dataclass
class Stopwatch:
    """The time that a `with stopwatch()` block took on the device; call `ms` after the block."""

    start: Any
    end: Any

    def ms(self) -> float:
        if DRY:
            return float(self.end - self.start) * 1e3
        self.end.synchronize()
        return float(self.start.elapsed_time(self.end))


@contextlib.contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    watch = Stopwatch(_now(), None)
    yield watch
    watch.end = _now()


def _now() -> Any:
    if DRY:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def reset_peak() -> None:
    if not DRY:
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The most memory that tensors on the device have taken since `reset_peak`."""
    return 0 if DRY else torch.cuda.max_memory_allocated()


def round_of(calls: Calls) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run


def graph_ms(calls: Calls, repeats: int = 20) -> float:
    """The median time of a call in replays of one graph of all calls, without launches by the host in between."""
    run = round_of(calls)
    if DRY:
        return event_ms(run) / len(calls)
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return event_ms(graph.replay, repeats) / len(calls)


# -- correctness -----------------------------------------------------------------------------------------------------


class WrongError(Exception):
    """Results that do not agree with the reference."""


def relative_error(out: Tensor, expected: Tensor) -> float:
    """‖out - expected‖ / ‖expected‖; infinity if it is NaN."""
    out, expected = (x.detach().double().cpu().flatten() for x in (out, expected))
    if out.shape != expected.shape:
        raise WrongError(f"{len(out)} numbers instead of {len(expected)}")
    error = float((out - expected).norm() / expected.norm())
    return error if error == error else float("inf")


def check(out: Tensor, expected: Tensor, limit: float) -> float:
    error = relative_error(out, expected)
    if not error <= limit:
        raise WrongError(f"wrong: error {error:.1e}, {limit:.0e} allowed")
    return error


def maxsim_pair(query: Tensor, document: Tensor) -> Tensor:
    """The score of one document for one query, in float32."""
    return (query.float() @ document.float().T).amax(1).sum()


# -- data ------------------------------------------------------------------------------------------------------------


def unit(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Random vectors of length 1, made in parts to save memory."""
    out = torch.empty(*shape, dtype=dtype, device=DEVICE)
    for part in out.view(-1, shape[-1]).split(1 << 20):
        part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device=DEVICE), dim=1))
    return out


def around(mean: int, count: int, spread: float = 0.37) -> Tensor:
    """(count,) int64 lengths, even from mean · (1 - spread) to mean · (1 + spread)."""
    return (mean * (1 + spread * (2 * torch.rand(count, device=DEVICE) - 1))).round().long().clamp(min=1)


def texts(lengths: Tensor, dim: int = 128, dtype: torch.dtype = torch.bfloat16) -> Ragged:
    return Ragged.from_lengths(unit(int(lengths.sum()), dim, dtype=dtype), lengths)


def arrays_of(texts: Ragged) -> Texts:
    """The texts in the form that launchers of kernels take."""
    return Texts(texts.values, texts.offsets)


# -- results ---------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """The rows of a benchmark: each is printed and written to disk at once, since time on a lent machine may run out.

    Attributes:
        name: NAME in results/gpu_NAME.json.
        about: the machine.
        out: a file for the JSON instead of that one.
    """

    name: str
    about: dict[str, Any]
    out: Path | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        print(" ".join(f"{key}={text(value)}" for key, value in row.items() if value != ""), flush=True)
        path = self.out or (None if DRY else ROOT / f"benchmarks/results/gpu_{self.name}.json")
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps({"machine": self.about, "rows": self.rows}, indent=2, ensure_ascii=False)
            path.write_text(content + "\n")

    @contextlib.contextmanager
    def attempt(self, row: dict[str, Any], *, ours: bool) -> Iterator[None]:
        """Make an error inside the row's note and go on; if the row is `ours`, the script exits with 1 at the end."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 a failure of one contender must not cost the others
            note = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            self.add(row | {"note": note})
            if ours:
                self.failed.append(note)
        finally:
            if not DRY:
                torch.cuda.empty_cache()

    def time(
        self,
        row: dict[str, Any],
        calls: Callable[[], Calls],
        verify: Callable[[Any], float],
        figures: Callable[[float], dict[str, Any]],
        *,
        ours: bool,
        graph: bool = True,
        repeats: int = 20,
    ) -> float | None:
        """Make the calls, check the result of the first, time them, and add the row.

        Args:
            row: what is timed.
            calls: makes one call for each set of inputs.
            verify: the error of a result; raises `WrongError` if it is too large.
            figures: the row's figures by milliseconds a call.
            ours: whether an error makes the script fail.
            graph: whether the calls can be captured; else they are timed one by one.
            repeats: rounds that are timed.

        Returns:
            The milliseconds, or None if it failed.
        """
        with self.attempt(row, ours=ours):
            all_calls = calls()
            error = verify(all_calls[0]())
            launched = event_ms(round_of(all_calls), repeats) / len(all_calls)
            ms = graph_ms(all_calls, repeats) if graph else launched
            self.add(row | {"ms": ms, "with launch": launched, **figures(ms), "error": error})
            return ms
        return None

    def finish(self) -> None:
        """Print all rows as tables; exit with an error if a row of ours has one."""
        print("\n" + ", ".join(f"{key} {text(value)}" for key, value in self.about.items()))
        for _, group in groupby(self.rows, key=lambda row: next(iter(row))):
            print(table(list(group)))
        if self.failed:
            sys.exit(f"{len(self.failed)} of our results failed: {self.failed[0]}")


def text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A table with a column for every key that any row has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, *([text(row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
