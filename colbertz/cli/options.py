"""Options that several subcommands share, and loading the model they describe."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import dtype

    from colbertz.models import ColBERT

DTYPES = ("float32", "bfloat16", "float16")
DEFAULT_MODEL = "colbertz/nano"  # comes with the package
BACKENDS = ("torch", "onnx", "onnx-int8")


def positive(text: str) -> int:
    """An argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def add_model_arguments(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Options that name a model; `default` says what happens without `--model`: the packaged one is taken if None."""
    model_help = f"checkpoint directory or Hugging Face hub id ({default or f'default: {DEFAULT_MODEL}'})"
    parser.add_argument("--model", default=DEFAULT_MODEL if default is None else None, help=model_help)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: float32)")
    backend_help = "onnx and onnx-int8 run the files of `colbertz export` (default: torch)"
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help=backend_help)


def add_encoding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-tokens", type=positive, metavar="N", help="tokens in one forward pass")
    parser.add_argument("--pool-factor", type=positive, default=1, metavar="N", help="keep one embedding for N tokens")


def load_model(args: argparse.Namespace) -> "ColBERT":
    from colbertz.models import ColBERT

    return ColBERT.from_pretrained(args.model, args.device, torch_dtype(args.dtype), backend=args.backend)


def torch_dtype(name: str | None) -> "dtype | None":
    import torch

    chosen = None if name is None else getattr(torch, name)
    assert chosen is None or isinstance(chosen, torch.dtype)
    return chosen
