"""The nano recipe's data: what the stages read, made from plain pairs of texts.

    <out>/tokenizer.json           byte-pair encoding, trained on all pairs
    <out>/pairs/<name>.jsonl       stage 1: a file for each file of pairs, and python.jsonl of the installed Python
    <out>/pairs/<name>-cloze.jsonl stage 1: questions made of sentences of that file's documents
    <out>/data.json                where it comes from: number of pairs or questions by the name of their source
    <out>/supervised.jsonl         stages 2 and 3: questions whose answers are known, and some of the pairs, one a query

Nothing that a collection is judged by is trained on: pairs and questions are left out if their query is a judged query
or their document is a right answer to one. The questions of a collection's split `train` go into supervised.jsonl.
"""

from collections.abc import Sequence
from pathlib import Path

from colbertz.files import replaced_directory
from colbertz.recipes.demo.tokenizer import train_tokenizer
from colbertz.recipes.pairs import (
    Gathered,
    describe,
    first_of_each_query,
    gather,
    is_made,
    origin_of,
    pair_files,
    write_pairs,
)

# Tokens of the tokenizer.
_VOCAB_SIZE = 16_384
# Pairs of stage 1 that also take part in stages 2 and 3, at least, so that the questions do not make the model forget
# them. Many, because negatives are mined among their documents, and few documents have no hard negatives.
_MIN_REPEATED_PAIRS = 30_000


def prepare(
    pairs: Path, collections: Sequence[Path], out: Path, *, python: bool = True, judged_split: str = "dev"
) -> None:
    """Write everything that the stages read into `out`; does nothing if `out` has it. The same input, the same files.

    Args:
        pairs: folder of .jsonl or .jsonl.gz files, a `query` and its `document` a line.
        collections: directories in BEIR's layout.
        out: directory to write; it appears only when everything is in it.
        python: also train on the functions of the installed Python: first sentence of the docstring to code.
        judged_split: split of the collections that the model is judged by; nothing in it is trained on.

    Raises:
        FileNotFoundError: if `pairs` has no such file.
        UserError: for a row that is not as it should be, two sources of one name, or if `out` was made of other texts.
    """
    files = pair_files(pairs)
    origin = origin_of(files, collections, python, judged_split)
    if not is_made(out, origin):
        gathered = gather(files, collections, python, judged_split)
        _write_data(out, gathered, origin)
        print(", ".join(f"{name} {count:,}" for name, count in gathered.counts.items()))


def _write_data(out: Path, gathered: Gathered, origin: dict[str, object]) -> None:
    """Write the directory `out`; it appears only when everything is in it."""
    everything = [pair for pairs in gathered.sources.values() for pair in pairs]
    questions = [pair for pairs in gathered.questions.values() for pair in pairs]
    distinct = list(first_of_each_query(everything))
    repeated = distinct[:: max(1, len(distinct) // _MIN_REPEATED_PAIRS)]
    tokenizer = train_tokenizer((text for pair in everything for text in pair), _VOCAB_SIZE)
    with replaced_directory(out) as fresh:
        (fresh / "pairs").mkdir()
        for name, pairs in (gathered.sources | gathered.cloze).items():
            write_pairs(fresh / "pairs" / f"{name}.jsonl", pairs)
        write_pairs(fresh / "supervised.jsonl", [*questions, *repeated])
        (fresh / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        describe(fresh, origin, gathered.counts)
    print(
        f"{len(everything):,} pairs; for stages 2 and 3 {len(questions):,} questions and {len(repeated):,} of the pairs"
    )
