"""Documents per second on the CPU, ours and the peers', with the same random ModernBERT-base checkpoint.

Ours runs in PyTorch in float32, in bfloat16 and int8 where the processor multiplies them (then PyLate's runs in
bfloat16 too), with the extra `onnx` in onnxruntime in float32 and int8, and our exported file in OpenVINO (`pip install
openvino`) in float32 and bfloat16. What is not installed is left out; `.venv-pylate/bin/python benchmarks/encode.py`
has PyLate's figures. Those of sentence-transformers are of its ONNX backend, exported and quantised by itself for
AVX-512 VNNI; its OpenVINO backend refuses ModernBERT. It needs optimum-onnx, which asks for an older transformers than
sentence-transformers 6.2 does: an environment of its own with both, and then `pip install --no-deps optimum
optimum-onnx transformers==4.57.6 huggingface-hub==0.36.2 tokenizers==0.22.2`, and no datasets.

Real documents come from a BEIR corpus file (`--corpus`, lines with `text`); a tokenizer is trained on them on the spot.
Writes results/encode.json, or encode_PROCESSOR.json with bfloat16, PROCESSOR being the instructions that multiply it,
or encode_onnx.json where sentence-transformers' ONNX backend is. encode_breakdown.py says where our time in PyTorch
goes.

GFLOP count the arithmetic that the real tokens need: products with the weights, and attention over the tokens in reach.
What a contender computes on padding is time, not work.
"""

import argparse
import gzip
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor

from colbertz import ColBERT, Ragged
from colbertz.kernels import cpu
from colbertz.kernels.cpu.linear import product
from colbertz.models import ModernBertConfig
from colbertz.models.backends import Backend
from colbertz.models.dtypes import fast_bf16
from colbertz.models.encoders.layers import Linear

# Texts that OpenVINO gets at once; they are sorted by length and padded to the longest.
OPENVINO_BATCH = 8
CORPUS = Path(__file__).parents[2] / "shared/data/squad/corpus.jsonl.gz"


def read_texts(path: Path) -> list[str]:
    """The texts of a BEIR corpus file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE with ModernBERT's special tokens; its pieces are about as long as those of the published one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=30_000, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(f"[{name}]", special=True) for name in ("UNK", "CLS", "SEP", "PAD", "MASK")]
    )
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def gflop(model: ColBERT, lengths: Tensor) -> dict[str, float]:
    """Arithmetic for texts of these lengths, in the weights' products and in attention."""
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, Linear))
    config = model.encoder.config
    reach = {"full_attention": lengths, "sliding_attention": lengths.clamp(max=config.local_attention + 1)}
    pairs = sum(int((lengths * reach[kind]).sum()) for kind in config.layer_types)
    return {"linear": 2e-9 * weights * int(lengths.sum()), "attention": 4e-9 * config.hidden_size * pairs}


def gemm_rate(clock: Callable[[], float]) -> dict[str, float]:
    """GFLOP/s of the fused QKV product of ModernBERT base: ours (oneDNN), and PyTorch's `x @ w.T` (MKL)."""
    x, weight = torch.randn(8192, 768), torch.randn(2304, 768)
    durations = common.seconds({"oneDNN": lambda: product(x, weight), "MKL": lambda: x @ weight.T}, 9, clock)
    return {name: 2e-9 * 8192 * 768 * 2304 / seconds for name, seconds in durations.items()}


def load_pylate(directory: Path, **settings: Any) -> Any:
    """PyLate's model of the directory, or None where PyLate is not installed."""
    if importlib.util.find_spec("pylate") is None:
        return None
    from pylate.models import ColBERT as PyLateColBERT

    return PyLateColBERT(str(directory), device="cpu", local_files_only=True, **settings)


def check_equal(ours: ColBERT, theirs: Any, texts: list[str]) -> float:
    """The largest difference between the embeddings of both. A benchmark of unequal results would mean nothing."""
    expected = theirs.encode(texts, is_query=False, convert_to_tensor=True)
    worst = 0.0
    for mine, other in zip(ours.encode_document(texts), expected):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)
        worst = max(worst, float((mine - other).abs().max()))
    return worst


def load_onnx(directory: Path) -> dict[str, ColBERT]:
    """Our model of the directory in onnxruntime, by the name of the contender; none without the packages."""
    if not all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime")):
        return {}
    ColBERT.from_pretrained(directory, "cpu").export_onnx(directory / "onnx", int8=True)
    names: dict[str, Backend] = {"colbertz, ONNX": "onnx", "colbertz, ONNX int8": "onnx-int8"}
    return {name: ColBERT.from_pretrained(directory / "onnx", backend=backend) for name, backend in names.items()}


def load_openvino(directory: Path) -> dict[str, Callable[[list[str]], Ragged]]:
    """What encodes with our exported model in OpenVINO, by the name of the contender; none without OpenVINO."""
    if importlib.util.find_spec("openvino") is None or not (directory / "onnx").is_dir():
        return {}
    import openvino

    tokenizer = ColBERT.from_pretrained(directory, "cpu").tokenizer
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}

    def encode(compiled: Any, texts: list[str]) -> Ragged:
        tokens = tokenizer.documents(texts)
        order = tokens.ids.lengths.argsort(stable=True)
        found: list[Tensor] = []
        for batch in order.split(OPENVINO_BATCH):
            part = tokens[batch]
            ids, mask = part.ids.padded()
            output = torch.from_numpy(compiled({"input_ids": ids.numpy(), "attention_mask": mask.long().numpy()})[0])
            embeddings = Ragged.from_padded(output, mask)
            found += list(embeddings if part.scored is None else embeddings.select(part.scored))
        return Ragged.from_list([found[place] for place in order.argsort().tolist()])

    encoders = {}
    for precision in ("f32", "bf16"):
        compiled = openvino.Core().compile_model(
            str(directory / "onnx/model.onnx"), "CPU", settings | {"INFERENCE_PRECISION_HINT": precision}
        )
        encoders[f"colbertz, OpenVINO {precision}"] = partial(encode, compiled)
    return encoders


def load_sentence_transformers(directory: Path) -> Any:
    """sentence-transformers' model of the directory in ONNX int8, or None where it or optimum is not installed."""
    if not all(importlib.util.find_spec(package) for package in ("sentence_transformers", "optimum", "onnxruntime")):
        return None
    try:
        from sentence_transformers import MultiVectorEncoder, export_dynamic_quantized_onnx_model
    except ImportError:  # a version without it, or beside packages that it does not go with
        return None
    provider = {"provider": "CPUExecutionProvider"}
    here: dict[str, Any] = {"backend": "onnx", "device": "cpu", "local_files_only": True}
    whole = MultiVectorEncoder(str(directory), model_kwargs={**provider, "export": True}, **here)
    whole.save_pretrained(str(directory / "peer"))
    export_dynamic_quantized_onnx_model(whole, "avx512_vnni", str(directory / "peer"))
    small = {**provider, "file_name": "onnx/model_qint8_avx512_vnni.onnx"}
    return MultiVectorEncoder(str(directory / "peer"), model_kwargs=small, **here)


def mean_cosine(ours: Ragged, theirs: Any) -> float:
    """Of the embeddings of the same tokens. Their order and number must be the same."""
    theirs = Ragged.from_list([torch.as_tensor(embeddings).float() for embeddings in theirs])
    assert torch.equal(ours.offsets, theirs.offsets), "the contenders keep different tokens"
    return float(torch.cosine_similarity(ours.values, theirs.values).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="corpus.jsonl.gz with real documents")
    parser.add_argument("--documents", type=int, default=512)
    parser.add_argument("--document-length", type=int, default=519, help="tokens at most; 519 is ColBERT-Zero's")
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds; the contenders take turns")
    parser.add_argument("--layers", type=int, default=22, help="of the encoder; ModernBERT-base has 22")
    parser.add_argument("--processor-time", action="store_true", help="for one thread beside other programs")
    args = parser.parse_args()
    everything = read_texts(args.corpus)
    texts = everything[:: max(1, len(everything) // args.documents)][: args.documents]

    with tempfile.TemporaryDirectory() as directory:
        sizes = {"query_length": 39, "document_length": args.document_length}
        encoder = ModernBertConfig(num_hidden_layers=args.layers)
        ColBERT.from_scratch(encoder, train_tokenizer(everything), **sizes).save_pretrained(directory)
        ours, theirs = ColBERT.from_pretrained(directory, "cpu"), load_pylate(Path(directory))
        quantised = ColBERT.from_pretrained(directory, backend="torch-int8") if cpu.int8.instructions() else None
        if fast_bf16():
            rounded = ColBERT.from_pretrained(directory, "cpu", torch.bfloat16)
            theirs_rounded = load_pylate(Path(directory), model_kwargs={"torch_dtype": torch.bfloat16})
        exported, in_openvino = load_onnx(Path(directory)), load_openvino(Path(directory))
        peer = load_sentence_transformers(Path(directory))
    packages = {"onnxruntime": exported, "pylate": theirs, "sentence-transformers": theirs or peer}
    about = common.machine("tokenizers", *(package for package, used in packages.items() if used))
    lengths = ours.tokenizer.documents(texts).ids.lengths
    clock = time.process_time if args.processor_time else time.perf_counter
    work, rates = gflop(ours, lengths), gemm_rate(clock)
    about["clock"] = "processor time" if args.processor_time else "wall time"
    about |= {"documents": len(texts), "tokens": int(lengths.sum()), "longest": int(lengths.max())}
    about |= {f"GEMM GFLOP/s, {name}": round(rate) for name, rate in rates.items()}

    contenders: dict[str, Callable[[], object]] = {"colbertz": lambda: ours.encode_document(texts)}
    expected = ours.encode_document(texts[:64])
    if fast_bf16():
        contenders["colbertz, bfloat16"] = lambda: rounded.encode_document(texts)
        about["mean cosine, colbertz, bfloat16"] = f"{mean_cosine(expected, rounded.encode_document(texts[:64])):.5f}"
    if quantised:
        contenders["colbertz, int8"] = lambda: quantised.encode_document(texts)
        about["mean cosine, colbertz, int8"] = f"{mean_cosine(expected, quantised.encode_document(texts[:64])):.5f}"
    for name, encode in in_openvino.items():
        contenders[name] = partial(encode, texts)
        about[f"mean cosine, {name}"] = f"{mean_cosine(expected, encode(texts[:64])):.5f}"
    for name, model in exported.items():
        contenders[name] = partial(model.encode_document, texts)
        about[f"mean cosine, {name}"] = f"{mean_cosine(expected, model.encode_document(texts[:64])):.5f}"
    if theirs:
        about["largest difference"] = f"{check_equal(ours, theirs, texts[:64]):.1e}"
        contenders["PyLate, batch_size 32"] = lambda: theirs.encode(texts, is_query=False)
        if fast_bf16():
            contenders["PyLate, bfloat16, batch_size 32"] = lambda: theirs_rounded.encode(texts, is_query=False)
    if peer:
        name = "sentence-transformers, ONNX int8, batch_size 32"
        contenders[name] = lambda: peer.encode_document(texts)
        about[f"mean cosine, {name}"] = f"{mean_cosine(expected, peer.encode_document(texts[:64])):.5f}"
    durations = common.seconds(contenders, args.repeats, clock)
    reference = durations.get("PyLate, batch_size 32")
    rows = [
        {
            "contender": name,
            "documents/s": len(texts) / seconds,
            "tokens/s": int(lengths.sum()) / seconds,
            "GFLOP/s": sum(work.values()) / seconds,
            "of the GEMM rate %": 100 * sum(work.values()) / seconds / rates["oneDNN"],
            "times PyLate": reference / seconds if reference else "",
        }
        for name, seconds in durations.items()
    ]
    kind = "onnx" if peer else fast_bf16()
    common.report(f"encode_{kind}" if kind else "encode", about, rows)


if __name__ == "__main__":
    main()
