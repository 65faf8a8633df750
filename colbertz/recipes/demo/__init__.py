"""The demo: train, index and search a nano ColBERT on the Python code that every machine already has.

corpus.py      functions and their docstrings, from the installed packages
tokenizer.py   a byte-pair tokenizer for code, trained on them
run.py         `make demo` from top to bottom
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """`colbertz demo`: run the whole demonstration.

    Args:
        argv: arguments after the program's name; None for those of this process.

    Raises:
        ValueError, FileNotFoundError: for a configuration that cannot be used.
    """
    from colbertz.recipes.demo.run import parse, run

    run(parse(sys.argv[1:] if argv is None else argv))
