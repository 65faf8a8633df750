"""Encoder families: what adding one takes, training each from scratch, and how an unknown one is refused."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from checkpoints import modernbert_tokenizer
from published import colbert_zero, edit_json
from texts import ORDINARY, REAL
from torch import Tensor, nn

from colbertz import ColBERT, Ragged
from colbertz.models import BertConfig, CheckpointError, ModernBertConfig
from colbertz.models.encoders import base
from colbertz.models.encoders.base import FAMILIES, EncoderConfig, Family
from colbertz.models.encoders.layers import pick_fields
from colbertz.models.onnx.graph import Graph
from colbertz.training.config import ModelConfig
from colbertz.training.mlm import MaskedLanguageHead
from colbertz.training.model import build_model

# -- a third family: all that one needs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyConfig:
    """Sizes of `Toy`."""

    model_type: ClassVar[str] = "toy"
    architecture: ClassVar[str] = "ToyModel"

    vocab_size: int = 100
    hidden_size: int = 16
    num_hidden_layers: int = 2
    num_attention_heads: int = 1
    extra: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "ToyConfig":
        known = pick_fields(cls, config)
        return cls(**known, extra={key: value for key, value in config.items() if key not in known})

    def to_dict(self) -> dict[str, Any]:
        sizes = {key: value for key, value in asdict(self).items() if key != "extra"}
        return {**self.extra, **sizes, "model_type": self.model_type, "architectures": [self.architecture]}


class Toy(nn.Module):
    """Each token by itself: an embedding, and layers that add to it."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.table = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_hidden_layers)
        )

    @property
    def token_embeddings(self) -> nn.Embedding:
        return self.table

    @property
    def max_positions(self) -> None:
        return None

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, ids: Ragged, attended: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        x = self.table(ids.values)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x


def build_toy_graph(graph: Graph, encoder: Toy) -> str:
    x = graph.embedding("input_ids", encoder.table.weight)
    for layer in encoder.layers:
        assert isinstance(layer, nn.Linear)
        x = graph.op("Add", x, graph.op("Tanh", graph.linear(x, layer.weight, layer.bias)))
    return x


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyConfig:
    """The family `toy`, registered for one test."""
    monkeypatch.setitem(FAMILIES, "toy", Family(ToyConfig, Toy, build_toy_graph))
    return ToyConfig()


SIZES: dict[str, EncoderConfig] = {
    "modernbert": ModernBertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, embedding_dropout=0.1
    ),
    "bert": BertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2),
    "toy": ToyConfig(),
}
EVERY_FAMILY = pytest.mark.parametrize("name", SIZES)


def from_scratch(name: str, seed: int = 0, **settings: Any) -> ColBERT:
    return ColBERT.from_scratch(SIZES[name], modernbert_tokenizer(), embedding_dim=8, seed=seed, **settings)


def loss_of(model: ColBERT) -> Tensor:
    """Each of a few texts should find itself."""
    tokenizer, texts = model.tokenizer, ORDINARY[:4]
    scores = model.similarity(model(tokenizer.queries(texts)), model(tokenizer.documents(texts)))
    return -scores.log_softmax(1).diagonal().mean()


@EVERY_FAMILY
def test_a_family_is_made_from_scratch_from_its_seed(name: str, toy: ToyConfig) -> None:
    state = torch.random.get_rng_state()
    first, again, other = from_scratch(name), from_scratch(name), from_scratch(name, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state), "the global random generator is left alone"
    assert type(first.encoder.config) is type(SIZES[name])
    assert first.encoder.config.vocab_size == first.tokenizer.vocab_size
    weights = list(first.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(weights, again.state_dict().values(), strict=True))
    assert not torch.equal(other.encoder.token_embeddings.weight, first.encoder.token_embeddings.weight)
    assert all(weight.isfinite().all() for weight in weights)


def test_bert_from_scratch_has_the_weights_of_bert() -> None:
    """Devlin et al. 2018: normal with a standard deviation of 0.02, biases of 0, norms of 1."""
    encoder = from_scratch("bert").encoder
    for name, parameter in encoder.named_parameters():
        if "LayerNorm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.3), name


@EVERY_FAMILY
def test_a_family_trains_is_saved_and_read(name: str, toy: ToyConfig, tmp_path: Path) -> None:
    model = from_scratch(name).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = loss_of(model).item()
    loss_of(model.train()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "token_type" not in n)
    optimizer.step()
    assert loss_of(model.eval()).item() < before
    model.save_pretrained(tmp_path / "model")
    again = ColBERT.from_pretrained(tmp_path / "model", "cpu")
    assert again.encoder.config == model.encoder.config
    assert torch.equal(again.encode_document(REAL).values, model.encode_document(REAL).values)


@EVERY_FAMILY
def test_a_training_run_chooses_the_family(name: str, toy: ToyConfig, tmp_path: Path) -> None:
    modernbert_tokenizer().save(str(tmp_path / "tokenizer.json"))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = build_model(ModelConfig(tokenizer=str(tmp_path / "tokenizer.json"), encoder=name, **sizes), seed=0)
    config = model.encoder.config
    assert config.model_type == name
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 3, 2)
    assert len(model.encoder.layers) == 3
    hidden = model.encoder(model.tokenizer.documents(ORDINARY).ids)
    head = MaskedLanguageHead.of(model.encoder)
    positions = torch.arange(5)
    head(hidden[positions], model.encoder.token_embeddings.weight, positions)[0].backward()
    assert model.encoder.token_embeddings.weight.grad is not None


def test_a_family_grows_its_vocabulary(toy: ToyConfig, tmp_path: Path) -> None:
    from_scratch("toy").save_pretrained(tmp_path / "model")
    before = from_scratch("toy").tokenizer.vocab_size
    model = ColBERT.from_pretrained(tmp_path / "model", "cpu", query_prefix="[NEW] ")
    assert model.encoder.config.vocab_size == model.tokenizer.vocab_size == before + 1
    assert model.encode_query("text").isfinite().all()


# -- ONNX ------------------------------------------------------------------------------------------------------------


def test_a_family_is_exported_by_its_own_builder(toy: ToyConfig, tmp_path: Path) -> None:
    """Every third family used to be written as if it were a BERT."""
    pytest.importorskip("onnxruntime")
    model = from_scratch("toy")
    model.export_onnx(tmp_path / "onnx")
    exported = ColBERT.from_pretrained(tmp_path / "onnx", backend="onnx")
    torch.testing.assert_close(exported.encode_document(REAL).values, model.encode_document(REAL).values)


def test_a_family_without_a_builder_is_not_exported(
    toy: ToyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setitem(FAMILIES, "toy", replace(FAMILIES["toy"], build_graph=None))
    with pytest.raises(ValueError, match="'toy' cannot be exported to ONNX, only modernbert and bert"):
        from_scratch("toy").export_onnx(tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


# -- unknown families ------------------------------------------------------------------------------------------------

REFUSAL = r"model_type 'toy' is not supported, only modernbert and bert$"


def test_an_unknown_family_is_refused_when_a_checkpoint_is_read(tmp_path: Path) -> None:
    directory = colbert_zero(tmp_path / "model")
    edit_json(directory / "config.json", model_type="toy")
    (directory / "model.safetensors").write_bytes(b"refused before the weights are read")
    with pytest.raises(CheckpointError, match=rf"config\.json: {REFUSAL}"):
        ColBERT.from_pretrained(directory, "cpu")


def test_an_unknown_family_is_refused_from_scratch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=REFUSAL):
        from_scratch("toy")
    modernbert_tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=REFUSAL):
        build_model(ModelConfig(tokenizer=str(tmp_path / "tokenizer.json"), encoder="toy"), seed=0)


def test_an_unknown_family_is_refused_by_the_export(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = from_scratch("bert")
    unregistered = ColBERT(Toy(ToyConfig(hidden_size=32)), model.projections, model.tokenizer)
    with pytest.raises(ValueError, match=REFUSAL):
        unregistered.export_onnx(tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("length", [512, 513, 1024, 1300])
def test_a_bert_reads_texts_longer_than_its_positions_in_windows_of_nearly_equal_length(length: int) -> None:
    encoder = from_scratch("bert", document_length=2000).eval().encoder
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(5, 20, (n,), generator=generator) for n in (7, length, 0, 600)]
    ends = [[i * len(text) // n for i in range(1, n)] for text in texts for n in [-(-len(text) // 512)]]
    pieces = [text.tensor_split(of_text) for text, of_text in zip(texts, ends)]
    assert all(len(piece) <= 512 for of_text in pieces for piece in of_text)
    with torch.no_grad():
        together = encoder(Ragged.from_list(texts)).split([len(text) for text in texts])
        for text, of_text in zip(together, pieces):
            alone = [encoder(Ragged.from_list([piece])) for piece in of_text]
            torch.testing.assert_close(text, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_names_of_families_are_their_model_types() -> None:
    for name, family in base.FAMILIES.items():
        assert family.config.model_type == name
