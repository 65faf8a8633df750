"""The Python in the documentation runs as it stands, on a small checkpoint in place of a published one."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from colbertz import config
from colbertz.models import Tokens

DOCS = Path(__file__).parents[1] / "docs"


def run_blocks(page: str, names: dict[str, object], replaced: dict[str, str]) -> dict[str, object]:
    """Run the Python blocks of a page one after the other, in one namespace, and return it."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks, f"{page} shows no Python"
    for block in blocks:
        for old, new in replaced.items():
            block = block.replace(old, new)
        exec(compile(block, page, "exec"), names)
    return names


def test_in_your_code(checkpoint: Path) -> None:
    padded, mask = torch.randn(2, 3, 128), torch.ones(2, 3, dtype=torch.bool)
    rows = [{"query": f"question {i}", "document": f"answer {i}"} for i in range(3)]
    names: dict[str, object] = {"torch": torch, "nn": nn, "F": F, "Tensor": Tensor, "Tokens": Tokens}
    names |= {"DataLoader": DataLoader, "padded": padded, "mask": mask, "rows": rows, "keep": torch.ones(6).bool()}
    replaced = {"lightonai/ColBERT-Zero": str(checkpoint), '"cuda"': '"cpu"', "num_workers=4": "num_workers=0"}
    replaced[', multiprocessing_context="spawn"'] = ""
    run_blocks("in-your-code.md", names, replaced)

    tokenizer = names["tokenizer"]
    queries, documents = tokenizer.queries(["a", "b c"]), tokenizer.documents(["a", "b c"])
    reranker = names["Reranker"](str(checkpoint))
    reranker(queries, documents).sum().backward()
    assert reranker.gate.weight.grad is not None
    assert all(p.grad is None for p in reranker.colbert.parameters())
    tower = names["TwoTower"](str(checkpoint)).train()
    tower(queries, documents).backward()
    assert all(p.grad is not None for p in tower.parameters())
    assert [len(side) for side in next(iter(names["loader"]))] == [3, 3]


def program(name: str) -> ModuleType:
    """One of the programs that write parts of the documentation."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_up_to_date() -> None:
    made = program("generate_settings")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "run python docs/generate_settings.py"


def test_the_pictures_of_the_kernels_are_up_to_date() -> None:
    made = program("draw_kernels")
    shown = set(re.findall(r"images/(kernel_\w+\.svg)", (DOCS / "kernels.md").read_text(encoding="utf-8")))
    assert shown == set(made.PICTURES)
    for name, draw in made.PICTURES.items():
        drawn = draw()
        assert (made.IMAGES / name).read_text(encoding="utf-8") == drawn, "run python docs/draw_kernels.py"
        ElementTree.fromstring(drawn)


def test_the_settings_named_in_the_guide_exist() -> None:
    known = {name for name, _ in config._keys(config.TrainingConfig)}
    sections = {name.split(".")[0] for name in known if "." in name}
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    named = {key for key in re.findall(r"`-{0,2}([a-z_]+\.[a-z_]+)\b", text) if key.split(".")[0] in sections}
    assert len(named) > 15
    assert named <= known, named - known
