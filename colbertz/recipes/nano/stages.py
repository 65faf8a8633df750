"""The steps of the nano recipe, each from files to files: a stage of training, mined negatives, a teacher's scores.

A step whose result exists is not repeated, and a stage that was interrupted continues.
"""

import tempfile
from pathlib import Path

import yaml

from colbertz.distillation import lists, negatives, teachers
from colbertz.errors import UserError
from colbertz.models import ColBERT
from colbertz.recipes.steps import train_argument
from colbertz.searcher import Searcher
from colbertz.text.counted import counted
from colbertz.training import alignment, config
from colbertz.training.model import build_model

# Negatives of a question are drawn at random from its best 30 wrong answers. By rank and not by score, because a low
# temperature brings scores together: hardly any was below 95 % of the right answer's.
_FILTERS = negatives.Filters(num_negatives=7, max_rank=30, sampling="random")
# Candidates that are searched for each question; right answers and repeated texts among them have no rank.
_TOP_K = 50
# Questions that the teacher scores at most, evenly spread over all.
_MOST_TAUGHT = 9_000
# Weight of BM25's scores beside the teacher's; both are stretched to [0, 1] first.
_BM25_WEIGHT = 0.5


def untrained(yaml_file: Path, tokenizer: Path, seed: int, output: Path) -> Path:
    """Save a checkpoint of random weights, of the sizes in the YAML file, and return its directory."""
    loaded = config.load(["--config", str(yaml_file), f"--model.tokenizer={tokenizer}"])
    alignment.save(build_model(loaded.model, seed), output)
    return output


def all_pairs(data: Path, yaml_file: Path) -> str:
    """The argument that trains on every file of pairs that `prepare` wrote.

    All queries of a batch come from one file. Files that are too small for the YAML file's `batch_size` are joined, and
    the smallest of the other files joins them if they are too small together.

    Raises:
        UserError: if all pairs together are too few for a batch.
    """
    batch_size = yaml.safe_load(yaml_file.read_text(encoding="utf-8"))["batch_size"]
    paths = sorted((data / "pairs").glob("*.jsonl"))
    num_rows = {path: path.read_bytes().count(b"\n") for path in paths}
    joined = [path for path in paths if num_rows[path] < batch_size]
    if joined and sum(num_rows[path] for path in joined) < batch_size:
        joined += sorted(num_rows.keys() - set(joined), key=lambda path: (num_rows[path], path))[:1]
    if joined and sum(num_rows[path] for path in joined) < batch_size:
        raise UserError(
            f"{sum(num_rows.values()):,} pairs do not fill a batch of {batch_size}; give more, or settings with a "
            f"smaller batch_size than {yaml_file.parent} has: --configs"
        )
    if joined:
        small = data / f"small-{batch_size}.jsonl"
        small.write_bytes(b"".join(path.read_bytes() for path in joined))
        names = ", ".join(path.stem for path in joined)
        print(f"{names} are trained on together: too small for {batch_size} a batch")
        paths = [path for path in paths if path not in joined] + [small]
    return train_argument([{"path": str(path)} for path in paths])


def mine(model: Path, data: Path, out: Path) -> str:
    """Find negatives among the answers of all questions, and return the argument that trains with them."""
    if not out.exists():
        collection = lists.read_pairs(str(data / "supervised.jsonl"))
        # Beside the output, because an index may be too large for /tmp.
        with tempfile.TemporaryDirectory(prefix=".colbertz-mine-", dir=out.parent) as folder:
            searcher = Searcher.build(
                folder,
                ColBERT.from_pretrained(model),
                collection.documents,
                ids=collection.document_ids,
                location=model,
            )
            mined = negatives.mine(searcher.model, searcher.index, collection, _FILTERS, top_k=_TOP_K)
            print(f"{lists.write_mined(out, mined)}: {out}")
    return train_argument([{"path": str(out), "negatives": ["negatives"], "max_negatives": 3}])


def teach(teacher: Path, mined: Path, out: Path, *, most_taught: int = _MOST_TAUGHT) -> str:
    """Score the questions' candidates with a model and BM25, and return the argument that distils the scores.

    Args:
        teacher: directory of the model.
        mined: what `mine` wrote; a part of it goes into `taught-<its name>` beside it.
        out: directory of the scores.
        most_taught: rows that are scored at most, evenly spread over all.

    Raises:
        UserError: if `out` exists and holds the scores of another teacher.
    """
    record = out.with_name("teacher.txt")
    if out.exists() and (before := record.read_text(encoding="utf-8")) != str(teacher):
        raise UserError(f"{out} has the scores of {before}, now the teacher is {teacher}; delete it to make them anew")
    if not out.exists():
        record.write_text(str(teacher), encoding="utf-8")
        # Split bytes and not text: Python's text has other line ends than JSON lines, such as U+2028.
        rows = mined.read_bytes().splitlines(keepends=True)
        taught = mined.with_name(f"taught-{mined.name}")
        taught.write_bytes(b"".join(rows[:: -(-len(rows) // most_taught)]))
        candidates = lists.read_mined(str(taught))
        model = teachers.load_teacher("colbert", str(teacher))
        bm25 = teachers.bm25_teacher(candidates.documents.values())
        lists.write_scores(out, candidates, teachers.score_lists(candidates, model, bm25, _BM25_WEIGHT))
        print(f"{counted(len(candidates.lists), 'list')}, {counted(candidates.num_pairs, 'score')}: {out}")
    return train_argument([{"layout": "ms-marco-scores", "path": str(out)}])
