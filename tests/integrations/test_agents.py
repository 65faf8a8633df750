"""`colbertz install-agent`: what is written into the files of agents, and which files are left alone."""

import json
import tomllib
from pathlib import Path

import pytest
from commands import run_command
from hypothesis import given
from hypothesis import strategies as st

from colbertz.cli import main
from colbertz.errors import UserError
from colbertz.integrations.agents import AGENTS, change_for, lines_by_hand

COMMAND = ["/opt/python", "-m", "colbertz", "mcp"]
ENTRY = {"command": COMMAND[0], "args": COMMAND[1:]}
# What each agent's documentation shows for a server that is a local program.
EXPECTED = {
    "claude": (".mcp.json", {"mcpServers": {"colbertz": {"type": "stdio", **ENTRY}}}),
    "codex": ("home/.codex/config.toml", {"mcp_servers": {"colbertz": ENTRY}}),
    "cursor": (".cursor/mcp.json", {"mcpServers": {"colbertz": ENTRY}}),
    "gemini": (".gemini/settings.json", {"mcpServers": {"colbertz": ENTRY}}),
    "opencode": ("opencode.json", {"mcp": {"colbertz": {"type": "local", "command": COMMAND, "enabled": True}}}),
    "vscode": (".vscode/mcp.json", {"servers": {"colbertz": {"type": "stdio", **ENTRY}}}),
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is the current directory, with an empty home in it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CODEX_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path: Path) -> object:
    return tomllib.loads(path.read_text()) if path.suffix == ".toml" else json.loads(path.read_text())


@pytest.mark.parametrize("name", AGENTS)
def test_a_new_file(name: str, project: Path) -> None:
    path, values = EXPECTED[name]
    change = change_for(AGENTS[name], project, COMMAND)
    assert (change.path, change.old) == (project / path, None)
    change.write()
    assert read(project / path) == values
    by_hand = lines_by_hand(AGENTS[name], COMMAND)
    assert (tomllib if path.endswith("toml") else json).loads(by_hand) == values


@pytest.mark.parametrize("name", AGENTS)
def test_again_changes_nothing(name: str, project: Path) -> None:
    change_for(AGENTS[name], project, COMMAND).write()
    change = change_for(AGENTS[name], project, COMMAND)
    assert change.new == change.old


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), JSON), st.sampled_from([None, 2, 4, "\t"]))
def test_what_a_json_file_had_stays(
    tmp_path_factory: pytest.TempPathFactory, other: dict[str, object], servers: dict[str, object], indent: int | None
) -> None:
    project = tmp_path_factory.mktemp("project")
    values = {**other, "mcpServers": servers}
    (project / ".mcp.json").write_text(json.dumps(values, indent=indent))
    change_for(AGENTS["claude"], project, COMMAND).write()
    expected = {**values, "mcpServers": {**servers, "colbertz": {"type": "stdio", **ENTRY}}}
    assert list(json.loads((project / ".mcp.json").read_text()).items()) == list(expected.items())


def test_an_indented_file_keeps_its_lines(project: Path) -> None:
    old = '{\n    "mcpServers": {\n        "x": {\n            "command": "größe"\n        }\n    },\n    "a": 1\n}\n'
    (project / ".mcp.json").write_text(old)
    new = change_for(AGENTS["claude"], project, COMMAND).new
    assert set(old.splitlines()) <= set(new.splitlines())


def test_the_text_of_a_toml_file_stays(project: Path) -> None:
    old = 'model = "x" # mine\n\n[mcp_servers.other]\ncommand = "y"\n'
    path = project / "home/.codex/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(old)
    change_for(AGENTS["codex"], project, COMMAND).write()
    assert path.read_text().startswith(old)
    assert read(path) == {"model": "x", "mcp_servers": {"other": {"command": "y"}, "colbertz": ENTRY}}


def test_opencode_s_second_version_has_its_servers_elsewhere(project: Path) -> None:
    (project / "opencode.json").write_text('{"mcp": {"servers": {"x": {"type": "local", "command": ["x"]}}}}')
    change_for(AGENTS["opencode"], project, COMMAND).write()
    assert set(json.loads((project / "opencode.json").read_text())["mcp"]["servers"]) == {"x", "colbertz"}


def test_codex_s_folder_can_be_elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_HOME", str(project / "codex"))
    assert change_for(AGENTS["codex"], project, COMMAND).path == project / "codex" / "config.toml"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("claude", "{"),
        ("claude", '{"mcpServers": {} // mine\n}'),
        ("claude", "[]"),
        ("claude", "3"),
        ("claude", '{"mcpServers": []}'),
        ("claude", '{"mcpServers": {"x": 1, "x": 2}}'),
        ("claude", "[" * 100_000),
        ("codex", "[mcp_servers"),
        ("codex", "mcp_servers = {other = {command = 'x'}}"),
        ("codex", "mcp_servers = 3"),
        ("codex", '[mcp_servers.colbertz]\ncommand = "mine"'),
        ("vscode", b"\xff\xfe{"),
    ],
)
def test_a_file_that_would_lose_something_is_left_as_it_is(name: str, content: str | bytes, project: Path) -> None:
    path = AGENTS[name].file(project)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="left as it is"):
        change_for(AGENTS[name], project, COMMAND)


def test_a_file_that_changed_meanwhile_is_left_as_it_is(project: Path) -> None:
    change = change_for(AGENTS["claude"], project, COMMAND)
    (project / ".mcp.json").write_text("{}")
    with pytest.raises(UserError, match="just been changed"):
        change.write()
    assert (project / ".mcp.json").read_text() == "{}"


def test_the_command_shows_what_it_writes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("install-agent", "claude", "--yes")
    assert '+    "colbertz": {' in capsys.readouterr().out
    run_command("install-agent", "claude")
    assert "already has colbertz" in capsys.readouterr().out


def test_the_command_writes_nothing_without_being_asked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-agent", "claude"]) == 2
    captured = capsys.readouterr()
    assert '+    "colbertz": {' in captured.out
    assert "add --yes" in captured.err
    assert not (project / ".mcp.json").exists()
    (project / ".mcp.json").write_text("{")
    assert main(["install-agent", "claude", "--yes"]) == 2
    captured = capsys.readouterr()
    assert '"colbertz": {' in captured.out
    assert "by hand" in captured.err
