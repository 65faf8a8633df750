"""The `colbertz` command. Each subcommand is a module with HELP, `add_arguments(parser)` and `run(args)`.

What the user did wrong (`UserError`) and what the operating system refuses (`OSError`: no such file, a full disk) is
one line on stderr and exit status 2; any other exception is a bug and shows its traceback. Subcommands import torch and
the rest when they run, so that help and mistyped options answer at once.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from colbertz import __version__
from colbertz.cli import (
    check,
    compact,
    convert,
    demo,
    encode,
    evaluate,
    export,
    index,
    info,
    mine,
    nano,
    score,
    search,
    train,
)
from colbertz.errors import UserError

SUBCOMMANDS: dict[str, ModuleType] = {
    "train": train,
    "encode": encode,
    "index": index,
    "search": search,
    "compact": compact,
    "check": check,
    "convert": convert,
    "export": export,
    "mine": mine,
    "score": score,
    "eval": evaluate,
    "info": info,
    "nano": nano,
    "demo": demo,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (None: this process's) and return its exit status."""
    args = _parse(sys.argv[1:] if argv is None else list(argv))
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # some libraries, such as bm25s, set their own loggers to DEBUG
    logging.basicConfig(format="%(message)s", handlers=[handler])
    try:
        SUBCOMMANDS[args.subcommand].run(args)
    except BrokenPipeError:
        # The reader has gone, as in `colbertz search … | head`; Python would complain once more when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="colbertz", description="Late-interaction retrieval: train, encode, index, search."
    )
    parser.add_argument("--version", action="version", version=f"colbertz {__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    for name, module in SUBCOMMANDS.items():
        # A module that forwards its options has a parser of its own behind it, which answers --help too.
        forwards = hasattr(module, "FORWARDS")
        subparser = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP, add_help=not forwards, allow_abbrev=False
        )
        module.add_arguments(subparser)
        subparser.set_defaults(rest=[])
    args, rest = parser.parse_known_args(argv)
    if hasattr(SUBCOMMANDS[args.subcommand], "FORWARDS"):
        args.rest = argv[argv.index(args.subcommand) + 1 :]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args
