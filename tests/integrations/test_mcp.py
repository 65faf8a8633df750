"""`colbertz mcp` as an agent meets it: a program, driven by the client of the official SDK over stdio."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import ListRootsResult, Root

# As an older client (with the handshake) and as a newer one.
MODES = ("legacy", "auto")
SOURCES = {
    "net/retry.py": "def retry_failed_requests(session):\n    '''Send a request again after it failed.'''\n    pass\n",
    "net/parse.py": "def parse_date(text):\n    '''The date that a text names.'''\n    return text\n",
    "docs/guide.md": "# Guide\n\n## Install\n\nInstall the program with pip.\n\n## Dates\n\nDates are parsed.\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project, another folder beside it, and a link out of the project."""
    world = tmp_path_factory.mktemp("world")
    for name, text in SOURCES.items():
        path = world / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (world / "other").mkdir()
    (world / "other" / "secret.md").write_text("# Secret\n\nRequests are retried.\n")
    (world / "project" / "link.md").symlink_to(world / "other" / "secret.md")
    return world


Talk = Callable[[Client], Awaitable[Any]]


def talk(world: Path, talk: Talk, *folders: Path, mode: str = "auto", roots: tuple[Path, ...] = ()) -> None:
    """Start a server in the project, without a background process, and talk to it."""
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(world / "cache"),
        "COLBERTZ_RESIDENT": "0",
        "HOME": str(world / "home"),
    }
    server = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "colbertz", "mcp", *map(str, folders)],
        cwd=str(world / "project"),
        env=environment,
    )

    async def list_roots(context: object) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=root.as_uri()) for root in roots])

    async def run() -> None:
        async with Client(server, mode=mode, list_roots_callback=list_roots if roots else None) as client:
            await talk(client)

    asyncio.run(run())


async def call(client: Client, tool: str, **arguments: Any) -> str:
    """The text of an answer."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.content[0].text


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return result.content[0].text


async def complete(client: Client, **arguments: Any) -> str:
    """An answer to a search for which everything is indexed."""
    return await call(client, "search", wait_seconds=300, **arguments)


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_searches_and_reads(world: Path, mode: str) -> None:
    async def session(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == {
            "search",
            "related",
            "read_range",
            "status",
        }

        found = await complete(client, query="where are failed requests sent again", k=2)
        assert found.startswith("net/retry.py:1-3 retry_failed_requests\n")
        assert "PARTIAL" not in found

        cursor = re.search(r"more hits: cursor (\S+)", found)
        assert cursor is not None
        following = await complete(client, query="where are failed requests sent again", k=2, cursor=cursor[1])
        assert "net/retry.py" not in following

        docs = await complete(client, query="dates", kind="docs")
        assert "docs/guide.md" in docs
        assert ".py:" not in docs
        assert "docs/guide.md" not in await complete(client, query="dates", path="net")
        assert await complete(client, query="dates", regex="no such line") == "no hits"

        assert "net/parse.py:1-3 parse_date" in await call(
            client, "related", path="net/retry.py", line=1, wait_seconds=300
        )
        lines = await call(client, "read_range", path="docs/guide.md", start=5, end=7)
        assert lines == "5: Install the program with pip.\n6: \n7: ## Dates\n(the file has 9 lines)"
        assert re.search(r": 3 files, \d+ chunks$", await call(client, "status"))

        assert "no cursor" in await refused(client, "search", query="dates", cursor="nonsense")
        assert "there is no line 10" in await refused(client, "read_range", path="docs/guide.md", start=10)
        assert "(" in await refused(client, "search", query="dates", regex="(")

    talk(world, session, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_outside_the_roots_is_reached(world: Path, mode: str) -> None:
    async def session(client: Client) -> None:
        for path in (
            "../other/secret.md",
            str(world / "other" / "secret.md"),
            "link.md",
            "net/retry.py",
            "/etc/passwd",
        ):
            assert "there is no" in await refused(client, "read_range", path=path)
            assert "there is no" in await refused(client, "related", path=path, line=1)
            assert "there is no" in await refused(client, "search", query="secret", path=path)
        found = await complete(client, query="requests are retried")
        assert "guide.md" in found
        assert not {"secret", "retry.py"} & set(re.findall(r"secret|retry\.py", found))

    talk(world, session, mode=mode, roots=(world / "project" / "docs",))


def test_folders_of_the_command_line_and_of_the_client(world: Path) -> None:
    async def session(client: Client) -> None:
        found = await complete(client, query="requests are retried", k=20)
        assert str(world / "other" / "secret.md") in found
        assert str(world / "project" / "docs" / "guide.md") in found
        assert "net/" not in found

    talk(world, session, world / "other", roots=(world / "project" / "docs",))


def test_an_answer_before_everything_is_indexed_says_so_and_reports_progress(world: Path) -> None:
    """The index of a folder that was never searched is built in the background."""
    new = world / "new"
    new.mkdir()
    for number in range(300):
        (new / f"{number}.md").write_text(
            f"# Page {number}\n\n" + f"Words of the page with the number {number}.\n" * 60
        )
    reports: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        reports.append((done, total, message))

    async def session(client: Client) -> None:
        result = await client.call_tool("search", {"query": "page 7"}, progress_callback=progress)
        assert not result.is_error
        assert "PARTIAL: " in result.content[0].text

        result = await client.call_tool("search", {"query": "page 7", "wait_seconds": 5}, progress_callback=progress)
        assert any(message == "files read" for _, _, message in reports)

    talk(world, session, new)


def test_a_folder_that_does_not_exist_is_refused_at_the_start(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from commands import error_of

    assert "there is no folder" in error_of(capsys, "mcp", world / "missing")
