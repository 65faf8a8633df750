"""`colbertz export`: write a checkpoint as ONNX files, for onnxruntime here and for next-plaid's server."""

import argparse
from pathlib import Path

from colbertz.errors import UserError

HELP = "write a checkpoint as ONNX files, which onnxruntime and next-plaid's server run"
EXAMPLES = "  colbertz export lightonai/ColBERT-Zero --onnx --int8 --out colbert-zero-onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="checkpoint directory or Hugging Face hub id")
    parser.add_argument("--onnx", action="store_true", required=True, help="write ONNX, the only format so far")
    parser.add_argument("--int8", action="store_true", help="also write model_int8.onnx, smaller and faster on CPUs")
    parser.add_argument(
        "--out", metavar="DIR", help="directory to write (default: that of the checkpoint, beside its weights)"
    )


def run(args: argparse.Namespace) -> None:
    from colbertz.models import ColBERT

    directory = Path(args.out or args.model).expanduser()
    if args.out is None and not directory.is_dir():
        raise UserError(f"{args.model} is no directory on this machine; say with --out where the files shall go")
    model = ColBERT.from_pretrained(args.model, "cpu")
    for path in model.export_onnx(directory, int8=args.int8, name=args.model):
        print(f"{path}  {path.stat().st_size / 1e6:,.1f} MB")
