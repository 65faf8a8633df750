"""`colbertz install-agent`: let a coding agent or an editor start `colbertz mcp`."""

import argparse
import difflib
import sys
from pathlib import Path

from colbertz.cli.output import print_line
from colbertz.errors import UserError
from colbertz.integrations.agents import AGENTS, Change, change_for, lines_by_hand, server_command
from colbertz.text.printable import printable

HELP = "add `colbertz mcp` to the configuration of an agent or editor"
EXAMPLES = """\
  colbertz install-agent claude
  colbertz install-agent codex --yes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = "; ".join(f"{name}: {agent.path}" for name, agent in AGENTS.items())
    parser.add_argument("agent", choices=AGENTS, help=f"whose configuration file is changed ({files})")
    parser.add_argument("--yes", action="store_true", help="do not ask before writing")


def run(args: argparse.Namespace) -> int:
    """Show the change, ask, and write; returns 1 if the user does not want it."""
    agent = AGENTS[args.agent]
    try:
        change = change_for(agent, Path.cwd(), server_command())
    except UserError:
        print_line(f"the lines for colbertz:\n{lines_by_hand(agent, server_command())}")
        raise
    if change.new == change.old:
        print_line(f"{change.path} already has colbertz; start {agent.name} in this folder to use it")
        return 0
    print_line(_difference(change))
    if not args.yes:
        if not sys.stdin.isatty():
            raise UserError("nothing was written; add --yes to write without being asked")
        if input(f"write {change.path}? [y/N] ").strip().lower() not in ("y", "yes"):
            return 1
    change.write()
    print_line(f"written: {change.path}\nstart {agent.name} again to use it")
    return 0


def _difference(change: Change) -> str:
    old = (change.old or "").splitlines()
    before = str(change.path) if change.old is not None else "/dev/null"
    lines = difflib.unified_diff(old, change.new.splitlines(), before, str(change.path), lineterm="")
    return "\n".join(map(printable, lines))
