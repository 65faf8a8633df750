"""Options that several subcommands share, and loading the model that they describe."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colbertz.models import ColBERT
    from colbertz.models.dtypes import DType

DTYPES = ("auto", "float32", "bfloat16", "float16")
BACKENDS = ("torch", "torch-int8", "onnx", "onnx-int8")
# The model that comes with the package.
DEFAULT_MODEL = "colbertz/nano"
_AS_INDEX = "as for the index"


def positive(text: str) -> int:
    """A whole number of at least 1, as the type of an option."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return number


def seed(text: str) -> int:
    """A number that random generators take as their seed, as the type of an option."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 2**63, got {number}")
    return number


def add_model_arguments(
    parser: argparse.ArgumentParser, *, default: str = DEFAULT_MODEL, as_index: bool = False
) -> None:
    """Add the options that name a model.

    Args:
        parser: a parser or one of its groups.
        default: the help's words for what happens without `--model`; `args.model` is None then, unless they are the
            name of the packaged model.
        as_index: whether the model runs as the one that an index was built with; `args.dtype` and `args.backend` are
            None then without the options.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="MODEL",
        default=DEFAULT_MODEL if default == DEFAULT_MODEL else None,
        help=f"checkpoint directory or Hugging Face hub id (default: {default})",
    )
    add_device_arguments(group, default_dtype=_AS_INDEX if as_index else "auto")
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default=None if as_index else "torch",
        help="what the model runs in; torch-int8 multiplies 8-bit integers on the CPU; onnx, onnx-int8 run the files "
        f"of `colbertz export` (default: {_AS_INDEX if as_index else 'torch'})",
    )


def add_device_arguments(parser: "argparse._ArgumentGroup", *, default_dtype: str = "auto") -> None:
    """Add `--device` and `--dtype` of a model. With another `default_dtype`, `args.dtype` is None without `--dtype`."""
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto" if default_dtype == "auto" else None,
        help="type that the model computes in; auto: bfloat16 on CUDA and on processors that multiply it fast, else "
        f"float32 (default: {default_dtype})",
    )


def add_build_arguments(parser: "argparse._ArgumentGroup") -> None:
    """Add the options of building an index, which `index`, and `search` with --build, have."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the index that is there once the new one is complete"
    )
    parser.add_argument(
        "--nbits",
        type=int,
        choices=(1, 2, 4, 8),
        help="bits for each dimension of an embedding (default: 4)",
    )
    parser.add_argument(
        "--codec",
        choices=("scalar", "pq", "opq"),
        default="scalar",
        help="how embeddings are coded: bits for each dimension, product quantisation, or this after a learned "
        "rotation (default: scalar)",
    )
    parser.add_argument(
        "--bytes",
        type=int,
        metavar="N",
        help="bytes for each token with pq and opq, besides its centroid (default: a quarter of the dimension)",
    )
    parser.add_argument(
        "--on-bad-text",
        choices=("error", "skip"),
        default="error",
        help="what to do with rows that have no usable text, such as rows that are not UTF-8: stop, or leave them out, "
        "count them and show the first (default: error)",
    )
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="seed of sampling and k-means (default: 42)")
    parser.add_argument(
        "--index-device", metavar="DEVICE", help="where to work on the index: cpu, cuda, cuda:1 … (default: cpu)"
    )


def add_encoding_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("encoding")
    group.add_argument(
        "--batch-tokens", type=positive, metavar="N", help="tokens in one forward pass (default: a size for the device)"
    )
    group.add_argument(
        "--pool-factor",
        type=positive,
        default=1,
        metavar="N",
        help="keep one embedding for N tokens of a document (default: 1)",
    )


def load_model(args: argparse.Namespace) -> "ColBERT":
    from colbertz.models import ColBERT

    return ColBERT.from_pretrained(args.model, args.device, torch_dtype(args.dtype), backend=args.backend)


def torch_dtype(name: str | None) -> "DType":
    import torch

    if name is None:
        return None
    if name == "auto":
        return "auto"
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def require_parent(path: str | Path) -> None:
    """Refuse an output file whose folder does not exist, before anything that takes long.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.parent} to write {path.name} in")


def add_recipe_arguments(parser: argparse.ArgumentParser, name: str) -> "argparse._ArgumentGroup":
    """Add what the recipes have in common; returns the group of training options, for those of one recipe."""
    parser.add_argument(
        "--pairs", type=Path, required=True, metavar="DIR", help="folder of .jsonl or .jsonl.gz files of pairs"
    )
    parser.add_argument(
        "--collections",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders in BEIR's layout: the model trains on the questions of qrels/train and is judged on those of "
        "--split (default: none)",
    )
    parser.add_argument(
        "--split", default="dev", metavar="NAME", help="judgements that the model is judged by (default: dev)"
    )
    out = f"runs/{name}"
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help=f"directory to write (default: {out})"
    )
    parser.add_argument("--prepare", action="store_true", help="stop when the data is there")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--configs", type=Path, metavar="DIR", help=f"folder of the stages' settings (default: configs/{name})"
    )
    training.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of new weights and the order of the data (default: 0)"
    )
    training.add_argument("--no-python", action="store_true", help="leave out the source of the installed Python")
    return training


def recipe_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a recipe from the options of `add_recipe_arguments`."""
    configs = {} if args.configs is None else {"configs": args.configs}
    collections = tuple(args.collections)
    return {
        "pairs": args.pairs, "collections": collections, "split": args.split, "out": args.out, "seed": args.seed,
        "python": not args.no_python, **configs,
    }  # fmt: skip
