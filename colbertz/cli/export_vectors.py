"""`colbertz export-vectors`: write the documents and embeddings of an index for another engine."""

import argparse

HELP = "write the ids, texts, metadata and embeddings of an index for other engines"
EXAMPLES = """\
  colbertz export-vectors my-index --to arrow --out vectors.parquet
  colbertz export-vectors my-index --to lancedb --out my-lancedb --fde
  colbertz export-vectors my-index --to qdrant --out http://127.0.0.1:6333 --name notes
  colbertz export-vectors my-index --to vespa --out feed.jsonl --bits
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", help="index directory")
    parser.add_argument(
        "--to", required=True, choices=("arrow", "qdrant", "lancedb", "vespa"), help="engine or format to write for"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="file for arrow (Parquet, or Arrow IPC if it ends in .arrow) and vespa, new folder for lancedb and qdrant,"
        " or the URL of a Qdrant server",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        default="documents",
        help="name of the LanceDB table, Qdrant collection, or Vespa document type and namespace (default: documents)",
    )
    parser.add_argument(
        "--fde", action="store_true", help="also write MUVERA's fixed-dimensional encodings, one vector a document"
    )
    parser.add_argument(
        "--fde-seed", metavar="N", type=int, default=0, help="seed of --fde; queries need the same one (default: 0)"
    )
    parser.add_argument(
        "--bits",
        action="store_true",
        help="write the signs of the embeddings, packed, in their place; for qdrant, switch on binary quantization",
    )


def run(args: argparse.Namespace) -> None:
    from colbertz.index import Index
    from colbertz.integrations.export import FixedDimensional, export_vectors

    index = Index.open(args.index)
    fde = FixedDimensional(index.embedding_dim, seed=args.fde_seed) if args.fde else None
    count = export_vectors(index, args.to, args.out, name=args.name, fde=fde, bits=args.bits, show_progress=None)
    print(f"exported {count:,} documents: {args.out}")
