"""What type checkers see of an installed colbertz: mypy --strict on scripts as users write them."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

RIGHT = """
from typing import assert_type

import numpy as np
from torch import Tensor

from colbertz import ColBERT, Document, Hit, Index, Ragged, Searcher, SearchOptions, maxsim

model = ColBERT.from_pretrained("model")
query = model.encode_query("a question")
queries = model.encode_query(["a question", "another"], batch_tokens=512)
documents = model.encode_document(["a text", "another"], pool_factor=2)
assert_type(query, Tensor)
assert_type(queries, Ragged)
assert_type(documents, Ragged)
assert_type(model.encode_document("a text"), Tensor)
assert_type(queries[0], Tensor)
assert_type(queries[:1], Ragged)
assert_type(queries[[0, 1]], Ragged)
assert_type(maxsim(queries, documents), Tensor)

index = Index.build("index", documents, ids=["a", "b"], texts=["a text", "another"], metadata=[{"year": 1}, {}])
options = SearchOptions(where="year > ?", parameters=(0,), n_ivf_probe=4)
assert_type(index.search(queries, 5, options), list[list[Hit]])
assert_type(index.search(queries, k=5, where="year > :low", parameters={"low": 3}, exact=True), list[list[Hit]])
assert_type(index.search(queries, options=options, subset=[["a"], None]), list[list[Hit]])
assert_type(index.search_text(["text"], subset={"a", "b"}), list[list[Hit]])
assert_type(index.search_hybrid(queries, ["one", "two"], text_weight=0.5, fusion="weighted"), list[list[Hit]])
assert_type(index.get("a"), Document)
assert_type(index.get(["a", "b"]), list[Document])
assert_type(index.ids(where="year = 1"), list[str])
assert_type(index.count(), int)
assert_type("a" in index, bool)
for document in index:
    assert_type(document, Document)
    assert_type(document.text, str | None)

searcher = Searcher(model, index)
assert_type(searcher.search("a question"), list[Hit])
assert_type(searcher.search(["a question", "another"], 3), list[list[Hit]])
assert_type(searcher.search("a question", k=5, where="year > ?", parameters=(2020,)), list[Hit])
assert_type(searcher.search("a question", options=options, hybrid=True), list[Hit])
searcher.add(["new"], ids=["c"])
searcher.update(["newer"], ids=["c"], metadata=[{"year": 2}])
assert_type(searcher.delete(["c"]), int)
assert_type(searcher.refresh(), bool)
for hit in searcher.search("a question"):
    assert_type(hit.id, str)
    assert_type(hit.score, float)
"""

# Each line is one mistake, with a part of what mypy says about it.
WRONG = {
    'searcher.search("a question", k="5")': '"search" of "Searcher"',
    'searcher.search("a question", where=3)': '"search" of "Searcher"',
    'searcher.search("a question", n_ivf_probes=3)': "n_ivf_probes",
    'searcher.search("a question")[0][0]': "not indexable",
    "SearchOptions(fusion='sum')": "SearchOptions",
    "index.search(['a text'])": '"search" of "Index"',
    'index.get("a").txt': '"txt"',
    'model.encode_query("a question")["first"]': "Invalid index type",
    "from colbertz import Sercher": '"Sercher"',
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which a wheel of colbertz is installed; it sees all other packages of ours.

    An editable install would not do: mypy does not follow the import hook that setuptools makes for it.
    """
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in ("colbertz", "kernels", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, "."]
    subprocess.run(build, cwd=source, check=True, capture_output=True, env=clean_environment())

    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    [site_packages] = environment.glob("lib/python*/site-packages")
    [wheel] = wheels.glob("colbertz-*.whl")
    zipfile.ZipFile(wheel).extractall(site_packages)
    (site_packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin/python"


def clean_environment() -> dict[str, str]:
    """Without the variables that would show Python or mypy the sources in place of what is installed."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}


def check_types(script: str, python: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(script)
    # The cache holds what mypy knows of PyTorch and others, which takes it a minute to find out.
    cache = ROOT / ".mypy_cache/installed"
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
        "--cache-dir",
        cache,
        "script.py",
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=clean_environment())


@pytest.mark.slow
def test_a_users_script_passes_strict_type_checking(installed: Path, tmp_path: Path) -> None:
    checked = check_types(RIGHT, installed, tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_mistakes_are_found(installed: Path, tmp_path: Path) -> None:
    """Were colbertz untyped for mypy, every name of it would be Any and no mistake would be found."""
    checked = check_types(RIGHT + "\n".join(WRONG) + "\n", installed, tmp_path)
    first = RIGHT.count("\n") + 1
    messages: dict[int, str] = {}
    for message in checked.stdout.splitlines():
        parts = message.split(":", 2)
        if len(parts) == 3 and parts[0] == "script.py":
            messages[int(parts[1])] = messages.get(int(parts[1]), "") + parts[2]
    assert sorted(messages) == [first + i for i in range(len(WRONG))], checked.stdout
    for i, (statement, part) in enumerate(WRONG.items()):
        assert part in messages[first + i], f"{statement}: {messages[first + i]}"
