"""The steps of the nano recipe, each from files to files: a stage of training, mined negatives, a teacher's scores.

A step whose result is there already is not repeated, and a stage that was interrupted goes on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import yaml

from colbertz import training
from colbertz.cli import mine as cli_mine
from colbertz.cli import score as cli_score
from colbertz.errors import UserError
from colbertz.training import alignment, config
from colbertz.training.model import build_model

# Negatives of a question, drawn from its best so many wrong answers; the teacher scores them and the right one. By rank
# and not by score, because a low temperature brings scores together: next to none was below 95 % of the right answer's.
_NUM_NEGATIVES, _MAX_RANK = 7, 30
# Questions that the teacher is asked, evenly spread.
_MOST_TAUGHT = 9_000
# The teacher's scores and those of BM25 are stretched to [0, 1] and mixed.
_BM25_WEIGHT = 0.5


def train(settings: Path, output: Path, *arguments: str) -> Path:
    """Train as the YAML file says, with these arguments after it, and return the directory of the model.

    Raises:
        ValueError, FileNotFoundError: for settings or data that cannot be used.
    """
    training.main(["--config", str(settings), f"--output={output}", *arguments])
    return output / "model"


def untrained(settings: Path, tokenizer: Path, seed: int, output: Path) -> Path:
    """A checkpoint of random weights, of the sizes in the YAML file, for stages that are to begin with nothing."""
    loaded = config.load(["--config", str(settings), f"--model.tokenizer={tokenizer}"])
    alignment.save(build_model(loaded.model, seed), output)
    return output


def all_pairs(data: Path, settings: Path) -> str:
    """The argument that trains on every file of pairs that `prepare` wrote.

    A batch is of one source, so files that are too small for the YAML file's `batch_size` are put together, with the
    smallest of the others if need be.

    Raises:
        ValueError: if all of them together are too small.
    """
    batch_size = yaml.safe_load(settings.read_text(encoding="utf-8"))["batch_size"]
    paths = sorted((data / "pairs").glob("*.jsonl"))
    rows = {path: path.read_bytes().count(b"\n") for path in paths}
    together = [path for path in paths if rows[path] < batch_size]
    if together and sum(rows[path] for path in together) < batch_size:
        together += sorted(rows.keys() - set(together), key=lambda path: (rows[path], path))[:1]
    if sum(rows[path] for path in together) < batch_size * bool(together):
        raise UserError(
            f"{sum(rows.values()):,} pairs do not fill a batch of {batch_size}; give more, or settings with a smaller "
            f"batch_size than {settings.parent} has: --configs"
        )
    if together:
        small = data / f"small-{batch_size}.jsonl"
        small.write_bytes(b"".join(path.read_bytes() for path in together))
        print(
            f"{', '.join(path.stem for path in together)} are trained on together: too small for {batch_size} a batch"
        )
        paths = [path for path in paths if path not in together] + [small]
    return _sources([{"path": str(path)} for path in paths])


def mine(model: Path, data: Path, out: Path) -> str:
    """Find negatives among the answers of all questions, and return the argument that trains with them."""
    if not out.exists():
        options = f"--num-negatives={_NUM_NEGATIVES} --top-k=50 --max-rank={_MAX_RANK} --sampling=random".split()
        _command(cli_mine, "--model", model, "--pairs", data / "supervised.jsonl", "--out", out, *options)
    return _sources([{"path": str(out), "negatives": ["negatives"], "max_negatives": 3}])


def teach(teacher: Path, mined: Path, out: Path) -> str:
    """Score the questions' candidates with a model and BM25, and return the argument that distils the scores.

    Raises:
        ValueError: if the scores are there, and of another teacher.
    """
    record = out.with_name("teacher.txt")
    if out.exists() and (before := record.read_text(encoding="utf-8")) != str(teacher):
        raise UserError(f"{out} has the scores of {before}, now the teacher is {teacher}; delete it to make them anew")
    if not out.exists():
        record.write_text(str(teacher), encoding="utf-8")
        rows = mined.read_bytes().splitlines(keepends=True)  # of bytes, because text has other ends of lines too
        taught = mined.with_name(f"taught-{mined.name}")
        taught.write_bytes(b"".join(rows[:: -(-len(rows) // _MOST_TAUGHT)]))
        _command(cli_score, "--mined", taught, "--teacher", teacher, "--bm25-weight", _BM25_WEIGHT, "--out", out)
    return _sources([{"layout": "ms-marco-scores", "path": str(out)}])


def _sources(sources: Sequence[dict[str, object]]) -> str:
    return f"--data.train={yaml.safe_dump(list(sources), default_flow_style=True, width=10**9).strip()}"


def _command(subcommand: ModuleType, *words: object) -> None:
    """Run a subcommand with these options; what it raises is the caller's."""
    parser = argparse.ArgumentParser()
    subcommand.add_arguments(parser)
    subcommand.run(parser.parse_args([str(word) for word in words]))
