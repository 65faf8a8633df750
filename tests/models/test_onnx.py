"""ONNX files: their embeddings are PyTorch's, next-plaid's keys are in them, and errors are clear."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoints import bert_config, modernbert_config, write_pylate, write_stanford
from onnx.reference import ReferenceEvaluator
from published import bare_modernbert, colbert_zero
from texts import ORDINARY, REAL

from colbertz import ColBERT, Index, Ragged, Searcher
from colbertz.cli import main
from colbertz.models import CheckpointError, Tokens

TANH = "torch.nn.modules.activation.Tanh"
DENSES = [
    {"in_features": 64, "out_features": 48, "bias": True, "activation_function": TANH, "use_residual": True},
    {"in_features": 48, "out_features": 48, "use_residual": True},
    {"in_features": 48, "out_features": 32},
]
SETTINGS = {"query_length": 70, "document_length": 300, "prompts": {"query": "search: ", "document": ""}}
FILES = ["model.onnx", "model_int8.onnx", "onnx_config.json", "tokenizer.json"]
LONG = " ".join(ORDINARY)


def _modernbert(directory: Path) -> Path:
    """A window of 16, lengths far beyond it, biases everywhere, another activation, three projections."""
    config = modernbert_config(
        local_attention=16, hidden_activation="gelu_pytorch_tanh", attention_bias=True, mlp_bias=True, norm_bias=True
    )
    return write_pylate(directory, config, DENSES, SETTINGS)


def _bert(directory: Path) -> Path:
    return write_stanford(directory, bert_config(), 24, {"query_maxlen": 40, "doc_maxlen": 300})


CHECKPOINTS = {"modernbert": _modernbert, "colbert zero": colbert_zero, "bert": _bert}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its ONNX files beside its weights."""
    path = CHECKPOINTS[request.param](tmp_path_factory.mktemp("checkpoints") / "model")
    ColBERT.from_pretrained(path, "cpu").export_onnx(path, int8=True)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds only the four files."""
    path = tmp_path_factory.mktemp("exported")
    ColBERT.from_pretrained(_modernbert(path / "source"), "cpu").export_onnx(path / "onnx", int8=True)
    return path / "onnx"


# -- what it computes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["query", "document"])
def test_embeddings_are_those_of_pytorch(directory: Path, side: str) -> None:
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), ColBERT.from_pretrained(directory, backend="onnx")
    assert theirs.settings == ours.settings
    assert theirs.embedding_dim == ours.embedding_dim
    texts = [*REAL, LONG, "a", "", LONG[:300]]
    expected, got = (getattr(model, f"encode_{side}")(texts) for model in (ours, theirs))
    assert torch.equal(got.offsets, expected.offsets)
    torch.testing.assert_close(got.values, expected.values, atol=1e-4, rtol=0)
    assert theirs.similarity(got[:3], got).shape == (3, len(texts))


@pytest.mark.parametrize("side", ["query", "document"])
def test_embeddings_in_eight_bits_keep_their_direction(directory: Path, side: str) -> None:
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), ColBERT.from_pretrained(directory, backend="onnx-int8")
    texts = [*ORDINARY, LONG]
    expected, got = (getattr(model, f"encode_{side}")(texts).values for model in (ours, theirs))
    assert float((expected * got).sum(dim=1).mean()) >= 0.99


def test_tokens_without_a_tokenizer(directory: Path) -> None:
    """Texts of 1 and of 0 tokens, very different lengths, and unattended tokens in the middle."""
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), ColBERT.from_pretrained(directory, backend="onnx")
    lengths = torch.tensor([1, 0, 200, 3, 1, 40, 0, 90])
    ids = Ragged.from_lengths(torch.randint(5, 100, (int(lengths.sum()),)), lengths)
    attended = torch.rand(len(ids.values)) < 0.7
    attended[ids.offsets[:-1][lengths > 0]] = True
    for tokens in (Tokens(ids), Tokens(ids, attended), Tokens(ids, attended, scored=torch.rand(len(attended)) < 0.5)):
        with torch.no_grad():
            expected, got = ours(tokens), theirs(tokens)
        assert torch.equal(got.offsets, expected.offsets)
        torch.testing.assert_close(got.values, expected.values, atol=1e-4, rtol=0)
    nothing = Tokens(Ragged.from_lengths(torch.empty(0, dtype=torch.int64), [0, 0]))
    assert theirs(nothing).values.shape == (0, theirs.embedding_dim)
    assert theirs.encode_document([]).values.shape == (0, theirs.embedding_dim)


def test_expansion_beyond_the_window_of_every_word(tmp_path: Path) -> None:
    """The last expansion tokens of a short query see no attended token; PyTorch gives them zeros as attention."""
    ours = ColBERT.from_pretrained(_modernbert(tmp_path / "model"), "cpu")
    ours.export_onnx(tmp_path / "onnx")
    theirs = ColBERT.from_pretrained(tmp_path / "onnx", backend="onnx")
    torch.testing.assert_close(theirs.encode_query("hi"), ours.encode_query("hi"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("file", ["model.onnx", "model_int8.onnx"])
def test_the_graph_means_the_same_without_onnxruntime(exported: Path, file: str) -> None:
    """ONNX's reference evaluator lacks onnxruntime's operators, so it uses our definition of rotary positions."""
    onnx.checker.check_model(onnx.load(exported / file), full_check=True)
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(5, 300, (2, 24)), np.ones((2, 24), np.int64)
    mask[1, 15:] = 0
    feeds = {"input_ids": ids, "attention_mask": mask}
    [expected] = ReferenceEvaluator(str(exported / file)).run(["output"], feeds)
    model = ColBERT.from_pretrained(exported, backend="onnx-int8" if "int8" in file else "onnx")
    [got] = model.encoder.session.run(["output"], feeds)
    # A difference in the last bit of a float can change the 8-bit value that it is rounded to.
    np.testing.assert_allclose(got, expected, atol=2e-2 if "int8" in file else 1e-5)


def test_a_new_projection_and_grown_vocabulary_are_exported(tmp_path: Path) -> None:
    ours = ColBERT.from_pretrained(bare_modernbert(tmp_path / "model"), "cpu", embedding_dim=16)
    ours.export_onnx(tmp_path / "onnx")
    theirs = ColBERT.from_pretrained(tmp_path / "onnx", backend="onnx")
    for side in ("encode_query", "encode_document"):
        expected, got = getattr(ours, side)(REAL), getattr(theirs, side)(REAL)
        torch.testing.assert_close(got.values, expected.values, atol=1e-4, rtol=0)


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_four_files_are_a_model(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == FILES
    model = ColBERT.from_pretrained(exported, "cpu", torch.float32, backend="onnx", embedding_dim=32, query_length=9)
    assert model.settings.query_length == 9
    assert model.encode_query("some text").shape == (9, 32)
    sizes = [(exported / name).stat().st_size for name in FILES[:2]]
    assert sizes[1] < sizes[0] / 2


def test_next_plaid_finds_its_keys(exported: Path) -> None:
    """Names and types of `ColbertConfig` in next-plaid-onnx 1.x (src/lib.rs); inputs and result by name."""
    config = json.loads((exported / "onnx_config.json").read_text())
    model = ColBERT.from_pretrained(exported, backend="onnx")
    backend = model.tokenizer.backend
    assert config["model_type"] == "ColBERT"
    assert config["uses_token_type_ids"] is False
    assert (config["query_prefix"], config["document_prefix"]) == ("[Q] ", "[D] ")
    assert (config["query_length"], config["document_length"], config["embedding_dim"]) == (70, 300, 32)
    assert config["mask_token_id"] == backend.token_to_id("[MASK]")
    assert config["pad_token_id"] == backend.token_to_id("[PAD]")
    assert config["query_prefix_id"] == backend.token_to_id("[Q] ")
    assert config["document_prefix_id"] == backend.token_to_id("[D] ")
    assert config["attend_to_expansion_tokens"] is config["do_query_expansion"] is config["do_lower_case"] is False
    skipped = {backend.token_to_id(word) for word in config["skiplist_words"]}
    assert skipped == set(model.tokenizer.skiplist.tolist())
    tokenizer = json.loads((exported / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is tokenizer["padding"] is None
    graph = onnx.load(exported / "model.onnx").graph
    assert [part.name for part in graph.input] == ["input_ids", "attention_mask"]
    assert [part.name for part in graph.output] == ["output"]


def test_what_next_plaids_exporter_writes_is_read(exported: Path, tmp_path: Path) -> None:
    config = json.loads((exported / "onnx_config.json").read_text())
    del config["colbertz"]
    (tmp_path / "onnx_config.json").write_text(json.dumps(config))
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    expected, model = (ColBERT.from_pretrained(path, backend="onnx") for path in (exported, tmp_path))
    assert not model.settings.do_query_expansion
    assert torch.equal(model.encode_document(REAL).values, expected.encode_document(REAL).values)


def test_exporting_beside_the_weights_keeps_the_checkpoint(directory: Path) -> None:
    assert (directory / "model.safetensors").is_file()
    assert {path.name for path in directory.iterdir()} >= set(FILES)
    assert ColBERT.from_pretrained(directory, "cpu").encode_query(REAL).values.isfinite().all()


def test_exporting_into_a_symbolic_link_keeps_the_link(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    ColBERT.from_pretrained(checkpoint).export_onnx(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "model.onnx").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_mteb_tells_exported_models_apart_by_their_weights(exported: Path, tmp_path: Path) -> None:
    mteb = pytest.importorskip("colbertz.integrations.mteb")
    models = [ColBERT.from_pretrained(exported, backend=backend) for backend in ("onnx", "onnx-int8", "onnx")]
    first, other, again = map(mteb._digest, models)
    assert first == again != other


def test_an_old_int8_file_is_written_anew(checkpoint: Path, tmp_path: Path) -> None:
    model = ColBERT.from_pretrained(checkpoint, "cpu")
    model.export_onnx(tmp_path / "out", int8=True)
    old = (tmp_path / "out/model_int8.onnx").read_bytes()
    with torch.no_grad():
        model.projections[0].linear.weight.mul_(-1)
    assert tmp_path / "out/model_int8.onnx" in model.export_onnx(tmp_path / "out")
    assert (tmp_path / "out/model_int8.onnx").read_bytes() != old


def test_command_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", str(checkpoint), "--onnx", "--int8", "--out", str(out)]) == 0
    assert [Path(line.split()[0]).name for line in capsys.readouterr().out.splitlines()] == [
        *("model.onnx", "model_int8.onnx", "tokenizer.json", "onnx_config.json")
    ]
    assert json.loads((out / "onnx_config.json").read_text())["model_name"] == str(checkpoint)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(text.replace("\n", " ") for text in ORDINARY))
    for backend in ("onnx", "onnx-int8"):
        saved = tmp_path / f"{backend}.npz"
        assert main(["encode", str(texts), "--model", str(out), "--backend", backend, "-o", str(saved)]) == 0
    assert main(["export", "owner/name", "--onnx"]) == 2
    assert "--out" in capsys.readouterr().err


# -- using one ---------------------------------------------------------------------------------------------------------


def test_a_searcher_accepts_it_as_the_model_of_the_index(checkpoint: Path, tmp_path: Path) -> None:
    ours = ColBERT.from_pretrained(checkpoint, "cpu")
    ours.export_onnx(tmp_path / "onnx", int8=True)
    Searcher.build(tmp_path / "index", ours, ORDINARY, ids=[str(i) for i in range(len(ORDINARY))])
    model = ColBERT.from_pretrained(tmp_path / "onnx", backend="onnx")
    assert Searcher(model, Index.open(tmp_path / "index")).search(ORDINARY[2], k=1)[0].id == "2"
    small = ColBERT.from_pretrained(tmp_path / "onnx", backend="onnx-int8")
    assert Searcher.build(tmp_path / "small", small, ORDINARY).search(ORDINARY[2], k=1)[0].text == ORDINARY[2]


def test_an_exported_model_can_be_pickled(exported: Path) -> None:
    model = ColBERT.from_pretrained(exported, backend="onnx")
    again = copy.deepcopy(model)  # uses the same protocol as pickle
    assert torch.equal(again.encode_query("some text"), model.encode_query("some text"))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_missing_files(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.onnx is missing; write it with: colbertz export .* --onnx$"):
        ColBERT.from_pretrained(checkpoint, backend="onnx")
    with pytest.raises(CheckpointError, match=r"model_int8\.onnx is missing.*--onnx --int8"):
        ColBERT.from_pretrained(checkpoint, backend="onnx-int8")
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"onnx_config\.json is missing"):
        ColBERT.from_pretrained(tmp_path, backend="onnx")
    (tmp_path / "onnx_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        ColBERT.from_pretrained(tmp_path, backend="onnx")
    (tmp_path / "tokenizer.json").write_bytes((exported / "tokenizer.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"mask_token_id.*export the model again"):
        ColBERT.from_pretrained(tmp_path, backend="onnx")
    (tmp_path / "onnx_config.json").write_bytes((exported / "onnx_config.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be read by onnxruntime"):
        ColBERT.from_pretrained(tmp_path, backend="onnx")


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (
            ValueError,
            "backend must be one of torch, torch-int8, onnx, onnx-int8, got 'tensorrt'",
            {"backend": "tensorrt"},
        ),
        (ValueError, "runs on the CPU, got device cuda", {"device": "cuda"}),
        (ValueError, "leave dtype out", {"dtype": torch.bfloat16}),
        (ValueError, "embedding_dim is 8, but .* has 32", {"embedding_dim": 8}),
        (TypeError, "no setting 'nonsense'", {"nonsense": 1}),
    ],
)
def test_invalid_arguments(exported: Path, error: type, message: str, arguments: dict) -> None:
    with pytest.raises(error, match=message):
        ColBERT.from_pretrained(exported, **{"backend": "onnx", **arguments})


def test_lengths_beyond_the_positions_of_a_bert(tmp_path: Path) -> None:
    ColBERT.from_pretrained(_bert(tmp_path / "model"), "cpu").export_onnx(tmp_path / "onnx")
    with pytest.raises(ValueError, match="document_length is 513, this encoder has positions for 512"):
        ColBERT.from_pretrained(tmp_path / "onnx", backend="onnx", document_length=513)


def test_an_exported_bert_reads_no_windows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    longer = ColBERT.from_pretrained(_bert(tmp_path / "model"), "cpu", document_length=8192)
    longer.export_onnx(tmp_path / "onnx")
    assert "document_length 512" in caplog.text
    assert ColBERT.from_pretrained(tmp_path / "onnx", backend="onnx").settings.document_length == 512


def test_unsupported_uses_of_an_exported_model(exported: Path, tmp_path: Path) -> None:
    model = ColBERT.from_pretrained(exported, backend="onnx")
    with pytest.raises(ValueError, match="normalize=False use backend torch"):
        model.encode_query("text", normalize=False)
    with pytest.raises(ValueError, match="no weights to save"):
        model.save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="is exported already"):
        model.export_onnx(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_activation_without_a_counterpart(tmp_path: Path) -> None:
    denses = [{"in_features": 64, "out_features": 8, "activation_function": "torch.nn.modules.activation.Hardtanh"}]
    model = ColBERT.from_pretrained(write_pylate(tmp_path / "model", modernbert_config(), denses, SETTINGS), "cpu")
    with pytest.raises(ValueError, match="Hardtanh cannot be exported, only Identity"):
        model.export_onnx(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_packages(exported: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ColBERT.from_pretrained(checkpoint, "cpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ValueError, match=r'onnxruntime is not installed; install it with: pip install "colbertz\[onnx\]"'
    ):
        ColBERT.from_pretrained(exported, backend="onnx")
    with pytest.raises(ValueError, match=r'onnx is not installed; .*pip install "colbertz\[onnx\]"'):
        model.export_onnx(tmp_path / "out")
