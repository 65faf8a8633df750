"""The GPU benchmarks run, at tiny sizes and in Triton's interpreter, and what they time agrees with float32."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FOLDER = Path(__file__).parents[1] / "benchmarks/gpu"
# What must have been measured: the values of these keys.
EXPECTED = {
    "maxsim": {
        "contender": {"colbertz", "PyTorch", "PyTorch, compiled", "PyTorch, padded", "PyTorch, padded, compiled"},
        "documents in": {"bfloat16", "int8", "float8_e4m3fn"},
        "tokens each": {"40", "40, ragged"},
    },
    "training": {"gradient": {"contrastive", "dense"}},
    "candidates": {
        "contender": {"colbertz", "colbertz, int8", "colbertz, float8_e4m3fn", "PyTorch, padded"},
        "queries": {1, 3},
    },
    "plaid": {
        "kernel": {"residual_maxsim", "exact_maxsim"},
        "nbits": {1, 2, 4, 8},
        "by codes": {"centroid_maxsim"},
        "by lists": {"walk_lists"},
        "coding": {"encode"},
        "k-means": {"nearest", "sums_by"},
    },
    "search": {"system": {"colbertz"}, "setting": {"default", "2 probes, 256"}},
    "encoder": {"longest": {300}, "contender": {"colbertz"}},
}
SLOW = {"encoder", "plaid"}


def test_every_script_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {"common", *EXPECTED}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EXPECTED])
def test_dry_run(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--dry", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(out.read_text())
    assert written["machine"]["device"] == "dry run on the CPU"
    rows = written["rows"]
    assert not [row for row in rows if "note" in row]
    for key, values in EXPECTED[name].items():
        assert {row[key] for row in rows if key in row} >= values, key
        table = done.stdout[done.stdout.index("\ndevice ") :]
        assert all(str(value) in table for value in values)


def test_a_wrong_result_is_not_timed(tmp_path: Path) -> None:
    """It becomes a note, the other rows are there, and the script ends with an error."""
    script = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
import common, torch
report = common.Report("none", {{"device": "none"}}, common.Path({str(tmp_path / "out.json")!r}))
right = torch.ones(3)
for name, result in (("wrong", right + 0.1), ("NaN", right * torch.nan), ("right", right)):
    report.time(
        {{"contender": name}},
        lambda: [lambda: result],
        lambda out: common.check(out, right, 1e-3),
        lambda ms: {{}},
        ours=True,
    )
report.finish()
"""
    done = subprocess.run([sys.executable, "-c", script, "--dry"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 of our results failed" in done.stderr
    wrong, nan, right = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert "error 1.0e-01" in wrong["note"]
    assert "error inf" in nan["note"]
    assert "ms" not in wrong and "ms" not in nan and right["ms"] >= 0
