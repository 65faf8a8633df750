"""What a command imports, in a process of its own: everything else would be waited for and not used."""

import subprocess
import sys
from pathlib import Path

import pytest

from colbertz import ColBERT, Searcher

# Beside the standard library and what `import torch` itself imports. So not numba, scipy, sympy or tqdm.
_SEARCH_NEEDS = {"colbertz", "numpy", "safetensors", "tokenizers"}
# Modules of PyTorch that it does not import itself. So not torch._dynamo or torch.export.
_SEARCH_NEEDS_OF_TORCH = {"torch.utils._device"}
_CHILD = """
import sys
{first}
before = set(sys.modules)
from colbertz.cli import main
try:
    main({argv})
except SystemExit:
    pass
print("modules:", *(set(sys.modules) - before))
"""


def modules_of(argv: list[str], first: str = "") -> set[str]:
    """What a command imports after the line `first`, without the standard library: packages, and modules of torch."""
    code = _CHILD.format(first=first, argv=argv)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names = done.stdout.split("modules:")[-1].split()
    packages = {name if name.startswith("torch.") else name.split(".")[0] for name in names}
    return packages - sys.stdlib_module_names


def test_a_search_of_a_small_index_imports_only_what_it_uses(checkpoint: Path, tmp_path: Path) -> None:
    Searcher.build(tmp_path / "index", ColBERT.from_pretrained(checkpoint), ["a text", "another"], location=checkpoint)
    imported = modules_of(["search", "--index", str(tmp_path / "index"), "--explain", "text"], "import torch")
    assert imported <= _SEARCH_NEEDS | _SEARCH_NEEDS_OF_TORCH
    assert imported >= {"colbertz", "tokenizers"}


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["search", "--help"], ["search", "--indx", "x"], ["serve", "--help"], ["index", "--nbits", "3"]],
)
def test_help_and_wrong_arguments_import_nothing_else(argv: list[str]) -> None:
    assert modules_of(argv) == {"colbertz"}
