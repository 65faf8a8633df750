"""Settings of all tests: no network, the same random numbers every time, GPU tests only where there is a GPU."""

import os
from pathlib import Path

# Set before huggingface_hub is imported: a test that tries to download must fail at once instead of waiting.
os.environ["HF_HUB_OFFLINE"] = "1"
# No command of a test starts a process that outlives it; tests of that process turn it on.
os.environ["COLBERTZ_RESIDENT"] = "0"

import hypothesis
import pytest
import torch

# How long an example takes depends on what else the machine does: no test fails because of it.
hypothesis.settings.register_profile("without-deadline", deadline=None)
hypothesis.settings.load_profile("without-deadline")

# Set before triton is imported: without a GPU kernels run in its interpreter, on CPU tensors.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns if this is not set


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where Triton's kernels run: on the GPU if there is one, else on the CPU in the interpreter."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    import interpreter

    interpreter.repair()
    return torch.device("cpu")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny untrained ColBERT. Even so, texts that share words are the most similar."""
    from checkpoints import modernbert_tokenizer

    from colbertz.models import ColBERT, ModernBertConfig

    sizes = ModernBertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    path = tmp_path_factory.mktemp("models") / "tiny"
    ColBERT.from_scratch(sizes, modernbert_tokenizer(), embedding_dim=16, seed=1).save_pretrained(path)
    return path
