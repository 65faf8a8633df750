"""The nano recipe's data: what the stages read, made from plain pairs of texts.

    <out>/tokenizer.json           byte-pair encoding, trained on all pairs
    <out>/pairs/<name>.jsonl       stage 1: a file for each file of pairs, and python.jsonl of the installed Python
    <out>/pairs/<name>-cloze.jsonl stage 1: questions made of sentences of that file's documents
    <out>/data.json                where it comes from: number of pairs or questions by the name of their source
    <out>/supervised.jsonl         stages 2 and 3: questions whose answers are known, and some of the pairs, one a query

Nothing that a collection is judged by is trained on: pairs and questions are left out if their query is a judged query
or their document is a right answer to one. The questions of a collection's split `train` go into supervised.jsonl.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from colbertz.files import replaced_directory
from colbertz.recipes.demo.tokenizer import train_tokenizer
from colbertz.recipes.pairs import (
    Pair,
    cloze_of,
    files_of,
    first_of_each_query,
    judged_texts,
    pair_files,
    python_pairs,
    questions_of,
    read_pairs,
    refuse_other_texts,
    refuse_same_names,
    source_name,
    unjudged,
    write_pairs,
)

DESCRIPTION = "data.json"
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
    origin = {
        "pairs": str(pairs),
        "collections": [str(directory) for directory in collections],
        "python": python,
        "judged_split": judged_split,
        "bytes": {str(path): path.stat().st_size for path in [*files, *files_of(collections)]},
    }
    if (out / DESCRIPTION).is_file():
        refuse_other_texts(json.loads((out / DESCRIPTION).read_text(encoding="utf-8")), origin, out)
        return
    names = [source_name(path) for path in files]
    refuse_same_names([*names, *(directory.name for directory in collections), *(["python"] if python else [])])
    judged = judged_texts(collections, judged_split)
    sources = {name: list(unjudged(read_pairs(path), judged)) for name, path in zip(names, files)}
    # Only of the folder's texts: Python source has no sentences.
    cloze = {f"{name}-cloze": list(unjudged(cloze_of(pairs), judged)) for name, pairs in sources.items()}
    if python:
        sources["python"] = list(unjudged(python_pairs(), judged))
    questions = {directory.name: list(questions_of(directory, judged)) for directory in collections}
    counts = {name: len(pairs) for name, pairs in (sources | cloze | questions).items() if pairs}
    _write_data(out, sources, cloze, [pair for pairs in questions.values() for pair in pairs], origin, counts)
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


def _write_data(
    out: Path,
    sources: Mapping[str, list[Pair]],
    cloze: Mapping[str, list[Pair]],
    questions: Sequence[Pair],
    origin: Mapping[str, object],
    counts: Mapping[str, int],
) -> None:
    """Write the directory `out`; it appears only when everything is in it."""
    everything = [pair for pairs in sources.values() for pair in pairs]
    distinct = list(first_of_each_query(everything))
    repeated = distinct[:: max(1, len(distinct) // _MIN_REPEATED_PAIRS)]
    tokenizer = train_tokenizer((text for pair in everything for text in pair), _VOCAB_SIZE)
    with replaced_directory(out) as fresh:
        (fresh / "pairs").mkdir()
        for name, pairs in [*sources.items(), *cloze.items()]:
            if pairs:
                write_pairs(fresh / "pairs" / f"{name}.jsonl", pairs)
        write_pairs(fresh / "supervised.jsonl", [*questions, *repeated])
        (fresh / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        (fresh / DESCRIPTION).write_text(json.dumps({**origin, "counts": counts}, indent=1) + "\n", encoding="utf-8")
    print(
        f"{len(everything):,} pairs; for stages 2 and 3 {len(questions):,} questions and {len(repeated):,} of the pairs"
    )
