"""`colbertz score`: teacher scores of lists of candidates, from which `colbertz train` distils a model."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbertz.cli.options import DTYPES, torch_dtype
from colbertz.corpus.formats import read_rows
from colbertz.corpus.lines import require_file
from colbertz.errors import UserError

if TYPE_CHECKING:
    from colbertz.distillation.teachers import CandidateList, Candidates, Teacher

HELP = "score candidates with a teacher, for distillation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mined", metavar="FILE", help="written by `colbertz mine`; - for stdin")
    source.add_argument("--data", metavar="DIR", help="BEIR's layout: corpus.jsonl, queries.jsonl, qrels/; .gz too")
    parser.add_argument("--run", metavar="FILE", help="with --data: the candidates of each query, a TREC run")
    parser.add_argument("--split", help="with --data: the positives are those of qrels/SPLIT.tsv (default: train)")
    parser.add_argument("--teacher", required=True, metavar="MODEL", help="checkpoint directory or Hugging Face hub id")
    parser.add_argument(
        "--kind",
        choices=("colbert", "bi-encoder", "cross-encoder"),
        default="colbert",
        help="of the teacher; the others than colbert are run by sentence-transformers (default: colbert)",
    )
    parser.add_argument(
        "--bm25-weight",
        type=float,
        default=0.0,
        metavar="W",
        help="stretch the scores of each query to [0, 1], those of BM25 too, and write (1-W) * teacher + W * BM25",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="train.jsonl, queries.jsonl and documents.jsonl")
    parser.add_argument("--overwrite", action="store_true", help="replace these files of --out once all are complete")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the teacher's own choice)")


def run(args: argparse.Namespace) -> None:
    if not 0 <= args.bm25_weight < 1:
        raise UserError(f"--bm25-weight must be at least 0 and below 1, got {args.bm25_weight:g}")
    if args.mined and (args.run or args.split):
        raise UserError("--run and --split are for --data; --mined holds candidates and positives itself")
    if args.data and not args.run:
        raise UserError("--data needs --run, the candidates to score")
    if Path(args.out).exists() and not args.overwrite:
        raise FileExistsError(f"{args.out} is there already; pass --overwrite to replace it")
    from tqdm import tqdm

    from colbertz.distillation.teachers import bm25_teacher, score_lists, write_scores

    candidates = read_mined(args.mined) if args.mined else read_run(args.run, args.data, args.split or "train")
    teacher = _teacher(args)
    bm25 = bm25_teacher(candidates.documents.values()) if args.bm25_weight else None
    num_pairs = sum(len(one.document_ids) for one in candidates.lists)
    with tqdm(total=num_pairs, desc="scoring", unit=" pairs", disable=None) as bar:

        def scored() -> Iterator["tuple[CandidateList, list[float]]"]:
            for one, scores in score_lists(candidates, teacher, bm25, args.bm25_weight):
                yield one, scores
                bar.update(len(scores))

        write_scores(args.out, candidates, scored())
    print(f"{len(candidates.lists):,} lists, {num_pairs:,} scores: {args.out}")


def _teacher(args: argparse.Namespace) -> "Teacher":
    from colbertz.distillation.teachers import bi_encoder_teacher, colbert_teacher, cross_encoder_teacher
    from colbertz.models import ColBERT

    dtype = torch_dtype(args.dtype)
    if args.kind == "colbert":
        return colbert_teacher(ColBERT.from_pretrained(args.teacher, args.device, dtype))
    make = bi_encoder_teacher if args.kind == "bi-encoder" else cross_encoder_teacher
    return make(args.teacher, args.device, dtype)


# -- reading ---------------------------------------------------------------------------------------------------------


def read_mined(source: str) -> "Candidates":
    """One list a row of what `colbertz mine` writes; queries with the same text share an id.

    Rows of other origin may lack `document_ids`: documents are then numbered, by their texts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row is not as it should be, naming the line, or there is none.
    """
    from colbertz.distillation.teachers import CandidateList, Candidates

    query_ids: dict[str, str] = {}
    numbered: dict[str, str] = {}
    documents: dict[str, str] = {}
    lists = []
    for row, where in read_rows(source):
        query, texts, ids = _mined_row(row, where)
        if ids is None:
            ids = [numbered.setdefault(text, f"d{len(numbered)}") for text in texts]
        for id, text in zip(ids, texts):
            if documents.setdefault(id, text) != text:
                raise UserError(f"{where}: document {id!r} has another text than before; mine the rows together")
        lists.append(CandidateList(query_ids.setdefault(query, f"q{len(query_ids)}"), ids))
    if not lists:
        raise UserError(f"{source} holds no rows")
    return Candidates({id: text for text, id in query_ids.items()}, documents, lists)


def _mined_row(row: dict[str, Any], where: str) -> tuple[str, list[str], list[str] | None]:
    query, document, negatives, ids = (row.get(key) for key in ("query", "document", "negatives", "document_ids"))
    if not isinstance(query, str) or not isinstance(document, str):
        raise UserError(f"{where}: `query` and `document` must be strings, found {query!r:.60} and {document!r:.60}")
    if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
        raise UserError(f"{where}: `negatives` must be a list of strings, found {negatives!r:.60}")
    texts = [document, *negatives]
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(texts)):
        raise UserError(
            f"{where}: `document_ids` must have {len(texts)} entries, the positive's first, found {ids!r:.60}"
        )
    return query, texts, ids


def read_run(source: str, folder: str, split: str) -> "Candidates":
    """A list for each query of a run: its positives, then the other documents of the run, best first.

    Args:
        source: a TREC run, `query Q0 document rank score name` a line.
        folder: queries, corpus and judgements in BEIR's layout.
        split: of the judgements.

    Raises:
        FileNotFoundError: if a file or the split is not there.
        ValueError: if a line is not as it should be, naming it, or a query of the run has no positive.
    """
    from colbertz.distillation.teachers import CandidateList, Candidates
    from colbertz.evaluation import read_beir, runs

    require_file(source)
    data = read_beir(folder, split)
    queries, documents = dict(zip(data.query_ids, data.queries)), dict(zip(data.document_ids, data.documents))
    relevant = dict(zip(data.query_ids, data.relevant))
    ranked = runs.read_run(source)
    for scores in ranked.values():
        missing = next((id for id in scores if id not in documents), None)
        if missing is not None:
            raise UserError(f"{source}: there is no document {missing!r} in {folder}")
    for query_id in ranked:
        if not relevant.get(query_id):
            raise UserError(
                f"query {query_id!r} of the run {source} has no positive in {folder}/qrels/{split}.tsv;"
                " leave it out of the run, or name another --split"
            )
    lists = []
    for query_id, scores in ranked.items():
        # Equal scores stay in the order of the file.
        others = sorted(scores, key=lambda document_id: -scores[document_id])
        lists.append(CandidateList(query_id, list(dict.fromkeys([*relevant[query_id], *others]))))
    return Candidates(queries, documents, lists)
