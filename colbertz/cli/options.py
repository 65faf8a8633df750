"""Options that several subcommands share, and loading the model they describe."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import dtype

    from colbertz.models import ColBERT

DTYPES = ("float32", "bfloat16", "float16")
BACKENDS = ("torch", "onnx", "onnx-int8")


def positive(text: str) -> int:
    """An argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def add_model_arguments(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Options that name a model; `default` says what happens without `--model`, which is required if it is None."""
    model_help = "checkpoint directory or Hugging Face hub id"
    parser.add_argument(
        "--model", required=default is None, help=model_help if default is None else f"{model_help} ({default})"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: float32)")
    if default is None:
        backend_help = "onnx and onnx-int8 run the files of `colbertz export` (default: torch)"
        parser.add_argument("--backend", choices=BACKENDS, default="torch", help=backend_help)
    else:  # a model that may be missing is not loaded by `load_model` alone
        parser.set_defaults(backend="torch")


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
