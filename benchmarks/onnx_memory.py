"""Peak memory and time of the exported ONNX file for one long text, in onnxruntime and, where installed, in OpenVINO.

    python benchmarks/onnx_memory.py

An untrained encoder with the widths of ModernBERT-base and fewer layers: memory does not depend on their number, except
for the weights, which are not counted. Each run is a process of its own with one thread. Writes
results/onnx_memory.json.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np

from colbertz import ColBERT
from colbertz.models import ModernBertConfig

# What the runtime computes in, by the name of the contender.
RUNTIMES = {"onnxruntime": "float32", "OpenVINO": "f32", "OpenVINO, bf16": "bf16"}


def in_onnxruntime(path: str) -> Callable[[dict[str, np.ndarray]], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["output"], feeds)


def in_openvino(path: str, precision: str) -> Callable[[dict[str, np.ndarray]], object]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(path, "CPU", settings)


def measure(path: str, runtime: str, length: int) -> None:
    """Print the peak in MiB above what the loaded file takes, and the seconds of processor time."""
    run = in_onnxruntime(path) if runtime == "onnxruntime" else in_openvino(path, RUNTIMES[runtime])
    ones = np.ones((1, length), np.int64)
    start = time.process_time()
    megabytes = common.peak_megabytes(lambda: run({"input_ids": ones, "attention_mask": ones}))
    print(megabytes, time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--one", nargs=3, metavar=("FILE", "RUNTIME", "LENGTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.one[0], args.one[1], int(args.one[2]))
        return
    runtimes = list(RUNTIMES) if importlib.util.find_spec("openvino") else ["onnxruntime"]
    packages = ["onnxruntime", *(["openvino"] if len(runtimes) > 1 else [])]
    about = common.machine(*packages) | {"layers": args.layers}
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = ColBERT.from_pretrained("colbertz/nano", "cpu").tokenizer.backend
        ColBERT.from_scratch(ModernBertConfig(num_hidden_layers=args.layers), tokenizer).export_onnx(directory)
        for runtime in runtimes:
            for length in args.lengths:
                command = [sys.executable, __file__, "--one", str(Path(directory, "model.onnx")), runtime, str(length)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                megabytes, seconds = map(float, done.stdout.split())
                scores = 12 * 4 * length**2 / 2**20
                rows.append(
                    {
                        "runtime": runtime,
                        "tokens": length,
                        "peak MiB": round(megabytes),
                        "scores of 12 heads, MiB": round(scores),
                        "seconds": round(seconds, 2),
                    }
                )
                print(rows[-1], flush=True)
    common.report("onnx_memory", about, rows)


if __name__ == "__main__":
    main()
