"""Packaging of colbertz. Tool settings stand in pyproject.toml.

The folder `kernels/` is installed as `colbertz.kernels`, and `configs/` inside the package too: both are symbolic links
in `colbertz/`. Transformers looks for a package called `kernels`, so ours must never be importable under that name.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "colbertz/__init__.py").read_text(), re.MULTILINE)

PARQUET = ["pyarrow"]
TRAIN = ["datasets", "tensorboard"]
EVAL = ["bm25s", "ir-measures", *PARQUET]
MTEB = ["mteb>=2"]
SERVE = ["fastapi>=0.115", "uvicorn>=0.30", "prometheus-client>=0.20"]
ONNX = ["onnx>=1.16", "onnxruntime>=1.20"]
TEACHERS = ["sentence-transformers>=5.3"]
PEERS = ["transformers>=5.3", "sentence-transformers>=6.2"]
LANGCHAIN = ["langchain-core>=1.0"]
LLAMA_INDEX = ["llama-index-core>=0.14"]
HAYSTACK = ["haystack-ai>=2.10"]
PYTERRIER = ["python-terrier>=1.0"]
INTEGRATIONS = [*LANGCHAIN, *LLAMA_INDEX, *HAYSTACK, *PYTERRIER]
EXPORT = [*PARQUET, "lancedb>=0.40", "qdrant-client>=1.20"]
FILES = ["pypdf>=6", "python-docx>=1.1"]
MCP = ["mcp>=2"]
GPU = ["triton>=3.6; sys_platform == 'linux'"]  # PyTorch's CUDA build brings it along, its CPU build does not
# Grammars of the languages whose files folder search cuts into functions and classes.
GRAMMARS = [
    f"tree-sitter-{language}"
    for language in (
        "bash c c-sharp cpp elixir go haskell java javascript julia kotlin lua ocaml php python ruby rust scala swift"
        " typescript"
    ).split()
]
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=1.0"]
DEV = ["pytest", "hypothesis", "ruff", "mypy"]
# What drives the server in its tests.
CLIENTS = [
    "httpx",
    "next-plaid-client>=1.8.5",
    "schemathesis>=4",
    "langchain-plaid>=0.1",
    "langchain-tests>=1.0",
    "selenium",
]

setup(
    name="colbertz",
    version=VERSION[1],
    description="Late-interaction (ColBERT) retrieval in plain PyTorch: training, encoding, indexing and search",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["colbertz", "colbertz.*"]),
    package_data={
        "colbertz.display": ["*.css", "*.js"],
        "colbertz": ["py.typed", "configs/*.yaml", "configs/*/*.yaml"],
        "colbertz.server": ["pages/*.html"],
        "colbertz.models": ["packaged/*/*", "packaged/*/*/*"],
    },
    entry_points={"console_scripts": ["colbertz=colbertz.cli:main"]},
    install_requires=[
        "torch>=2.11",
        "numpy",
        "scipy",
        "numba",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "tqdm",
        "PyYAML",
        "jsonargparse[signatures]",
        "charset-normalizer>=3",
        "tree-sitter>=0.23",
        *GRAMMARS,
    ],
    extras_require={
        "parquet": PARQUET,
        "train": TRAIN,
        "eval": [*EVAL, *MTEB],
        "demo": [*TRAIN, *EVAL],
        "serve": SERVE,
        "onnx": ONNX,
        "teachers": TEACHERS,
        "langchain": LANGCHAIN,
        "llama-index": LLAMA_INDEX,
        "haystack": HAYSTACK,
        "pyterrier": PYTERRIER,
        "export": EXPORT,
        "files": FILES,
        "mcp": MCP,
        "gpu": GPU,
        "docs": DOCS,
        "dev": [
            *TRAIN,
            *EVAL,
            *SERVE,
            *ONNX,
            *MTEB,
            *PEERS,
            *GPU,
            *DOCS,
            *CLIENTS,
            *INTEGRATIONS,
            *EXPORT,
            *FILES,
            *MCP,
            *DEV,
        ],
    },
)
