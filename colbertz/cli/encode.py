"""`colbertz encode`: write the token embeddings of texts as a file of two arrays.

`values` (num_tokens, E) float32 holds the embeddings of all texts, one text after the other. Those of text i are
`values[offsets[i]:offsets[i + 1]]`, with `offsets` (num_texts + 1,) int64.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.cli.options import add_encoding_arguments, add_model_arguments, load_model, require_parent
from colbertz.corpus.documents import read_texts
from colbertz.corpus.formats import NAMES
from colbertz.corpus.lines import require_file
from colbertz.errors import UserError
from colbertz.files import replaced_file
from colbertz.text.counted import counted
from colbertz.text.normalize import count_empty, warn_empty

if TYPE_CHECKING:
    from colbertz.ragged import Ragged

HELP = "embed texts and save the embeddings"
EXAMPLES = """\
  colbertz encode texts.txt --output embeddings.npz
  colbertz encode queries.jsonl --side query --model lightonai/ColBERT-Zero --output queries.safetensors
"""
_SUFFIXES = (".safetensors", ".npz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts", metavar="TEXTS", help=f"{NAMES} with `text` (and `title`), else a text a line; .gz too; - for stdin"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="file to write; its name ends in .safetensors or .npz"
    )
    parser.add_argument(
        "--side", choices=("document", "query"), default="document", help="what the texts are (default: document)"
    )
    parser.add_argument(
        "--prompt-name", metavar="NAME", help="one of the checkpoint's prompts (default: that of the side)"
    )
    add_model_arguments(parser)
    add_encoding_arguments(parser)


def run(args: argparse.Namespace) -> None:
    output = Path(args.output)
    if output.suffix not in _SUFFIXES:
        raise UserError(f"the output's name must end in {' or '.join(_SUFFIXES)}, got {output.name!r}")
    require_parent(output)
    if args.side == "query" and args.pool_factor != 1:
        raise UserError("--pool-factor is for documents; queries keep all their tokens")
    require_file(args.texts)
    texts = list(read_texts(args.texts))
    if not texts:
        raise UserError(f"{args.texts} holds no texts")
    warn_empty(count_empty(texts))
    from colbertz.models.dtypes import describe

    model = load_model(args)
    if args.side == "query":
        embeddings = model.encode_query(texts, prompt_name=args.prompt_name, batch_tokens=args.batch_tokens)
    else:
        embeddings = model.encode_document(
            texts, prompt_name=args.prompt_name, batch_tokens=args.batch_tokens, pool_factor=args.pool_factor
        )
    _save(embeddings, output)
    num_tokens, embedding_dim = embeddings.values.shape
    computed = f"computed in {describe(model)}"
    tokens = f"{counted(num_tokens, 'token')} of dimension {embedding_dim}"
    print(f"{counted(len(texts), 'text')}, {tokens}, {computed}: {output}")


def _save(embeddings: "Ragged", output: Path) -> None:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    values, offsets = embeddings.values.numpy(), embeddings.offsets.numpy()
    with replaced_file(output) as temporary:
        if output.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(file, values=values, offsets=offsets)
        else:
            try:
                save_file({"values": values, "offsets": offsets}, temporary)
            except SafetensorError as error:
                raise OSError(f"{output} cannot be written: {error}") from error
