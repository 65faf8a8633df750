"""The configuration by which coding agents and editors start `colbertz mcp`.

For each: the file that its documentation names, and the lines for one server that is started as a program. Other
content of the file stays. A file that cannot be read is not touched.
"""

import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colbertz.errors import UserError
from colbertz.files import write_atomically

# The name of the server in every configuration.
NAME = "colbertz"


@dataclass(frozen=True)
class Agent:
    """Where an agent reads its servers from.

    Attributes:
        name: what people call it.
        path: its file, below the project's folder; below the user's home if it begins with "~".
        keys: the objects in the file that lead to the servers.
        entry: makes the server's entry of a command line.
    """

    name: str
    path: str
    keys: tuple[str, ...]
    entry: Callable[[list[str]], dict[str, Any]]

    def file(self, project: Path) -> Path:
        """The file, for a project."""
        if self.name == "Codex" and "CODEX_HOME" in os.environ:
            return Path(os.environ["CODEX_HOME"]) / "config.toml"
        return project / Path(self.path).expanduser()


def _command_and_args(command: list[str]) -> dict[str, Any]:
    return {"command": command[0], "args": command[1:]}


def _typed(command: list[str]) -> dict[str, Any]:
    return {"type": "stdio", **_command_and_args(command)}


def _one_list(command: list[str]) -> dict[str, Any]:
    return {"type": "local", "command": command, "enabled": True}


AGENTS = {
    "claude": Agent("Claude Code", ".mcp.json", ("mcpServers",), _typed),
    "codex": Agent("Codex", "~/.codex/config.toml", ("mcp_servers",), _command_and_args),
    "cursor": Agent("Cursor", ".cursor/mcp.json", ("mcpServers",), _command_and_args),
    "gemini": Agent("Gemini CLI", ".gemini/settings.json", ("mcpServers",), _command_and_args),
    "opencode": Agent("opencode", "opencode.json", ("mcp",), _one_list),
    "vscode": Agent("VS Code", ".vscode/mcp.json", ("servers",), _typed),
}


@dataclass(frozen=True)
class Change:
    """What installing would do.

    Attributes:
        path: the file.
        old: its content; None if there is no file.
        new: its content with the server.
    """

    path: Path
    old: str | None
    new: str

    def write(self) -> None:
        """Replace the file in one step.

        Raises:
            UserError: if the file has changed since it was read.
        """
        if _content(self.path) != self.old:
            raise UserError(f"{self.path} has just been changed by another program; try again")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, self.new)


def server_command() -> list[str]:
    """The command line of the server: short if the shell finds this installation, else with the path of its Python."""
    found = shutil.which("colbertz")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return ["colbertz", "mcp"]
    # -P: the agent starts it in the project, whose files must not be taken for modules.
    return [sys.executable, "-P", "-m", "colbertz", "mcp"]


def lines_by_hand(agent: Agent, command: list[str]) -> str:
    """What a person would add to the agent's file."""
    if agent.path.endswith(".toml"):
        return _toml(agent, command)
    return json.dumps(_nested(agent.keys, {NAME: agent.entry(command)}), indent=2)


def change_for(agent: Agent, project: Path, command: list[str]) -> Change:
    """The change of the agent's file that adds the server, or replaces an older entry of it.

    Raises:
        UserError: if the file cannot be read as what it is, or would lose something.
    """
    path = agent.file(project)
    old = _content(path)
    try:
        new = (_with_toml if path.suffix == ".toml" else _with_json)(agent, old or "", command)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is left as it is ({error}); add the lines for colbertz by hand") from error
    return Change(path, old, new)


def _content(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is left as it is: it is not UTF-8 ({error.reason})") from error


def _with_json(agent: Agent, old: str, command: list[str]) -> str:
    values = json.loads(old, object_pairs_hook=_object) if old.strip() else {}
    servers = values
    for key in agent.keys:
        if not isinstance(servers, dict):
            raise ValueError("it has no object where the servers belong")
        servers = servers.setdefault(key, {})
    if not isinstance(servers, dict):
        raise ValueError(f"{'.'.join(agent.keys)} is not an object")
    if agent.name == "opencode" and isinstance(servers.get("servers"), dict):
        servers = servers["servers"]  # where the second version has them; it reads both forms
    servers[NAME] = agent.entry(command)
    return json.dumps(values, indent=_indent(old), ensure_ascii=False) + "\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it has an object with the same key twice")
    return values


def _indent(text: str) -> str:
    """The indentation that a file uses: that of its first indented line."""
    for line in text.splitlines():
        if line.strip() and line[0] in " \t":
            return line[: len(line) - len(line.lstrip())]
    return "  "


def _with_toml(agent: Agent, old: str, command: list[str]) -> str:
    values = tomllib.loads(old)
    expected = agent.entry(command)
    servers = values.setdefault(agent.keys[0], {})
    if not isinstance(servers, dict):
        raise ValueError(f"{agent.keys[0]} is not a table")
    present = servers.get(NAME)
    if present == expected:
        return old
    if present is not None:
        raise ValueError(f"it has another entry [{agent.keys[0]}.{NAME}]")
    separator = "" if not old else "\n" if old.endswith("\n") else "\n\n"
    new = f"{old}{separator}{_toml(agent, command)}\n"
    servers[NAME] = expected
    if tomllib.loads(new) != values:
        raise ValueError("its tables do not allow lines at the end")
    return new


def _toml(agent: Agent, command: list[str]) -> str:
    # A JSON string without characters beyond ASCII is a TOML string too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in agent.entry(command).items()]
    return "\n".join([f"[{agent.keys[0]}.{NAME}]", *lines])


def _nested(keys: tuple[str, ...], value: Any) -> Any:
    for key in reversed(keys):
        value = {key: value}
    return value
