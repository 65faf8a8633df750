"""`colbertz score`: teacher scores of lists of candidates, from which `colbertz train` distils a model."""

import argparse
from pathlib import Path

from colbertz.cli.options import add_device_arguments, torch_dtype
from colbertz.errors import UserError
from colbertz.text.counted import counted

HELP = "score candidates with a teacher, for distillation"
EXAMPLES = """\
  colbertz score --mined mined.jsonl --teacher lightonai/ColBERT-Zero --out scores
  colbertz score --mined mined.jsonl --teacher BAAI/bge-reranker-v2-m3 --kind cross-encoder --out scores
  colbertz score --data my-beir-folder --run candidates.trec --teacher my-model --bm25-weight 0.3 --out scores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mined", metavar="FILE", help="file that `colbertz mine` wrote; - for stdin")
    source.add_argument("--data", metavar="DIR", help="BEIR's layout: corpus.jsonl, queries.jsonl, qrels/; .gz too")
    parser.add_argument("--run", metavar="FILE", help="with --data: the candidates of each query, a TREC run")
    parser.add_argument(
        "--split", metavar="NAME", help="with --data: the positives are those of qrels/NAME.tsv (default: train)"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory for train.jsonl, queries.jsonl and documents.jsonl"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace these files of --out once all are complete")

    teacher = parser.add_argument_group("teacher")
    teacher.add_argument(
        "--teacher", required=True, metavar="MODEL", help="checkpoint directory or Hugging Face hub id"
    )
    teacher.add_argument(
        "--kind",
        choices=("colbert", "bi-encoder", "cross-encoder"),
        default="colbert",
        help="what the teacher is; sentence-transformers runs all but colbert (default: colbert)",
    )
    teacher.add_argument(
        "--bm25-weight",
        type=float,
        default=0.0,
        metavar="W",
        help="stretch the scores of each query to [0, 1], those of BM25 too, and write (1-W) * teacher + W * BM25 "
        "(default: 0)",
    )
    add_device_arguments(teacher, default_dtype="auto for a colbert, else the teacher's own choice")


def run(args: argparse.Namespace) -> None:
    if not 0 <= args.bm25_weight < 1:
        raise UserError(f"--bm25-weight must be at least 0 and below 1, got {args.bm25_weight:g}")
    if args.mined and (args.run or args.split):
        raise UserError("--run and --split are for --data; --mined holds candidates and positives itself")
    if args.data and not args.run:
        raise UserError("--data needs --run, the candidates to score")
    if Path(args.out).exists() and not args.overwrite:
        raise FileExistsError(f"{args.out} is there already; name another folder")
    from colbertz.distillation.lists import read_mined, read_run, write_scores
    from colbertz.distillation.teachers import ColBERTTeacher, bm25_teacher, load_teacher, score_lists
    from colbertz.models.dtypes import describe

    candidates = read_mined(args.mined) if args.mined else read_run(args.run, args.data, args.split or "train")
    dtype = args.dtype or ("auto" if args.kind == "colbert" else None)
    teacher = load_teacher(args.kind, args.teacher, args.device, torch_dtype(dtype))
    bm25 = bm25_teacher(candidates.documents.values()) if args.bm25_weight else None
    write_scores(args.out, candidates, score_lists(candidates, teacher, bm25, args.bm25_weight))
    lists, scores = counted(len(candidates.lists), "list"), counted(candidates.num_pairs, "score")
    computed = f", computed in {describe(teacher.model)}" if isinstance(teacher, ColBERTTeacher) else ""
    print(f"{lists}, {scores}{computed}: {args.out}")
