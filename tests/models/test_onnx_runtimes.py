"""Exported graphs in other runtimes and for long texts: equal results, and memory that grows with the length."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoints import bert_config, modernbert_config

from colbertz import ColBERT, Ragged
from colbertz.models import BertConfig, ModernBertConfig, Tokens

Run = Callable[[Path, dict[str, np.ndarray]], np.ndarray]

ENCODERS = {
    "modernbert": ModernBertConfig.from_dict(modernbert_config(local_attention=16)),
    "bert": BertConfig.from_dict(bert_config(max_position_embeddings=519)),
}
# Lengths around the blocks of attention: parts of one, whole ones, blocks that are not filled.
LENGTHS = [1, 17, 127, 128, 129, 300, 384, 517, 519]


@pytest.fixture(scope="module", params=ENCODERS)
def model(request: pytest.FixtureRequest) -> ColBERT:
    tokenizer = ColBERT.from_pretrained("colbertz/nano", "cpu").tokenizer.backend
    model = ColBERT.from_scratch(ENCODERS[request.param], tokenizer, embedding_dim=32, document_length=519)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)  # so that attention has an effect
    return model.eval()


@pytest.fixture(scope="module")
def exported(model: ColBERT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported")
    model.export_onnx(path)
    return path / "model.onnx"


def in_onnxruntime(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    [output] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["output"], feeds)
    return output


def without_contributed_operators(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Under another name the operator of rotary positions is unknown to onnxruntime, which takes our definition."""
    graph = onnx.load(path)
    for part in (*graph.opset_import, *graph.functions, *graph.graph.node):
        if part.domain == "com.microsoft":
            part.domain = "unknown"
    onnx.save(graph, path.with_name("unknown.onnx"))
    return in_onnxruntime(path.with_name("unknown.onnx"), feeds)


def in_openvino(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    output: np.ndarray = compiled(feeds)["output"]
    return output


@pytest.mark.parametrize("run", [in_onnxruntime, without_contributed_operators, in_openvino])
def test_a_padded_batch_is_embedded_as_by_pytorch(model: ColBERT, exported: Path, run: Run) -> None:
    """With unattended tokens, some of which have a window without attended ones: these get zeros as attention."""
    lengths = torch.tensor(LENGTHS)
    ids = Ragged.from_lengths(torch.randint(5, 100, (int(lengths.sum()),)), lengths)
    attended = torch.rand(len(ids.values)) < 0.7
    attended[ids.offsets[:-1]] = True
    attended[-200:-100] = False
    with torch.no_grad():
        expected = model(Tokens(ids, attended)).values
    row, real = ids.with_values(torch.arange(len(ids.values))).padded()
    feeds = {"input_ids": ids.values[row].numpy(), "attention_mask": (attended[row] & real).long().numpy()}
    torch.testing.assert_close(torch.from_numpy(run(exported, feeds))[real], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 128, 300])
def test_one_text_of_each_number_of_blocks(model: ColBERT, exported: Path, length: int) -> None:
    ids = torch.randint(5, 100, (length,))
    with torch.no_grad():
        expected = model(Tokens(Ragged.from_list([ids]))).values
    feeds = {"input_ids": ids[None].numpy(), "attention_mask": np.ones((1, length), np.int64)}
    got = torch.from_numpy(in_onnxruntime(exported, feeds))[0]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


_PEAK = """
import sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
def peak(length):
    ones = numpy.ones((1, length), numpy.int64)
    session.run(["output"], {"input_ids": ones, "attention_mask": ones})
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
short = peak(16)
print(peak(int(sys.argv[2])) - short)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_of_attention_is_not_the_square_of_the_length(tmp_path: Path) -> None:
    tokenizer = ColBERT.from_pretrained("colbertz/nano", "cpu").tokenizer.backend
    config = ModernBertConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ColBERT.from_scratch(config, tokenizer).export_onnx(tmp_path)
    length = 8192
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, tmp_path / "model.onnx", str(length)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    scores_of_one_head = 4 * length**2
    assert int(done.stdout) < scores_of_one_head / 2
