"""A server of the Model Context Protocol for agents: search folders, find similar places, read lines. Extra `mcp`.

Every call is answered within about two seconds. What is not indexed by then is said, and goes on in the background.
Answers are plain text with few characters, and end with a cursor where there is more.
"""

import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from colbertz import __version__
from colbertz.errors import UserError, require
from colbertz.folders.messages import CODE_KINDS, DOC_KINDS, Answer, FolderHit, SearchRequest, Status
from colbertz.integrations.agent_pages import Cursor, page_of_hits, page_of_lines
from colbertz.integrations.agent_paths import Roots, default_folder, folders_of_uris
from colbertz.resident.client import Progress, ask
from colbertz.text.counted import counted

if TYPE_CHECKING:
    from colbertz.resident.answers import FolderAnswers

require("mcp", "mcp")

import anyio
from anyio.lowlevel import current_token
from mcp.server.mcpserver import Context, ListRoots, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ListRootsResult, ToolAnnotations
from pydantic import Field

# Seconds beside `wait_seconds` after which a call is answered with what there is.
_OPENING_S = 0.8
# Seconds for changed files to be brought in, unless the agent asks for more.
_WAIT_S = 1.0
# Characters of an answer, unless the agent asks for more or less.
_CHARACTERS = 6000
_INSTRUCTIONS = (
    "Search the user's folders by meaning and by words: code, documentation, PDF. The index is made and kept up to date"
    ' by itself. Ask `search` in a sentence ("where are failed requests retried") rather than with grep patterns, then'
    " read with `read_range`. Answers give path:first-last line. A partial answer says so; ask again, or with a larger"
    " wait_seconds."
)
_READS_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Text = Annotated[str, Field(max_length=10_000)]
Characters = Annotated[int, Field(ge=200, le=100_000, description="characters of the answer at most")]
Wait = Annotated[
    float, Field(ge=0, le=600, description="seconds to wait for changed files to be indexed before a partial answer")
]
Hits = Annotated[int, Field(ge=1, le=50, description="hits of a page at most")]
Where = Annotated[str, Field(max_length=4096, description="a folder or file to search in; empty: everything")]
Next = Annotated[str, Field(max_length=40, description="cursor that the last page ended with")]
Patterns = Annotated[list[str], Field(max_length=50)]


def _clients_roots(context: Context) -> ListRoots | ListRootsResult:
    """Ask the client for its roots, if it has said that it has some."""
    capabilities = context.client_capabilities
    if capabilities is None or capabilities.roots is None:
        return ListRootsResult(roots=[])
    return ListRoots()


ClientRoots = Annotated[ListRootsResult, Resolve(_clients_roots)]


def make_server(folders: Sequence[str] = (), cwd: str | None = None) -> MCPServer:
    """The server, for the folders on its command line and the roots of its client.

    Args:
        folders: what may be searched and read, beside the client's roots.
        cwd: what may be searched if there are neither; None for the current directory.
    """
    tools = _Tools([str(Path(folder).absolute()) for folder in folders], cwd or str(Path.cwd()))
    server = MCPServer("colbertz", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    for tool in (tools.search, tools.related, tools.read_range, tools.status):
        server.tool(annotations=_READS_ONLY, structured_output=False)(_telling(tool))
    return server


class _Tools:
    """The tools. Their docstrings are what an agent reads of them."""

    def __init__(self, folders: list[str], cwd: str) -> None:
        self._folders = folders
        self._cwd = cwd
        self._answering = _Answering()

    async def search(
        self,
        query: Text,
        context: Context,
        roots: ClientRoots,
        path: Where = "",
        k: Hits = 10,
        kind: Literal["", "code", "docs"] = "",
        include: Patterns = [],  # noqa: B006  the schema shows it, and nothing changes it
        exclude: Patterns = [],  # noqa: B006
        regex: Text = "",
        cursor: Next = "",
        max_characters: Characters = _CHARACTERS,
        wait_seconds: Wait = _WAIT_S,
    ) -> str:
        """Find passages by what they mean and by their words, best first: path:first-last line, heading, lines.

        `include` and `exclude` are patterns as in .gitignore; `regex` (Python) has to match a line of a hit.
        """
        request = SearchRequest(
            root="",
            queries=(query,),
            k=k,
            kinds={"": (), "code": CODE_KINDS, "docs": DOC_KINDS}[kind],
            include=tuple(include),
            exclude=tuple(exclude),
            regex=regex or None,
        )
        allowed = self._roots(roots)
        return await self._page(context, allowed, allowed.named(path), request, cursor, max_characters, wait_seconds)

    async def related(
        self,
        path: Annotated[str, Field(min_length=1, max_length=4096)],
        line: Annotated[int, Field(ge=1)],
        context: Context,
        roots: ClientRoots,
        k: Hits = 10,
        cursor: Next = "",
        max_characters: Characters = _CHARACTERS,
        wait_seconds: Wait = _WAIT_S,
    ) -> str:
        """Find passages that are like the one at a line of a file."""
        allowed = self._roots(roots)
        root, relative = _file(allowed, path)
        request = SearchRequest(root="", related=f"{relative}:{line}", k=k)
        return await self._page(context, allowed, [(root, "")], request, cursor, max_characters, wait_seconds)

    async def read_range(
        self,
        path: Annotated[str, Field(min_length=1, max_length=4096)],
        roots: ClientRoots,
        start: Annotated[int, Field(ge=1)] = 1,
        end: Annotated[int, Field(ge=1)] = 100_000_000,
        max_characters: Characters = _CHARACTERS,
    ) -> str:
        """Read lines of a file with their numbers; of a PDF or docx, the text that was extracted from it."""
        root, relative = _file(self._roots(roots), path)
        return await anyio.to_thread.run_sync(_lines_of_file, root, relative, start, end, max_characters)

    async def status(self, context: Context, roots: ClientRoots) -> str:
        """Which folders can be searched, and how much of them is indexed."""
        allowed = self._roots(roots)
        lines = []
        for root in allowed.folders:
            values = await self._answering.within(context, "status", SearchRequest(root=root), 0.0)
            lines.append(_described(root, None if values is None else Status(**values)))
        return "\n".join(lines)

    def _roots(self, clients: ListRootsResult) -> Roots:
        folders = [*self._folders, *folders_of_uris(str(root.uri) for root in clients.roots)]
        return Roots.of(folders or default_folder(self._cwd))

    async def _page(
        self,
        context: Context,
        roots: Roots,
        places: list[tuple[str, str]],
        request: SearchRequest,
        cursor: str,
        max_characters: int,
        wait_seconds: float,
    ) -> str:
        """A page of the hits in some places, each a root and a path in it."""
        page = Cursor.read(cursor)
        hits: list[tuple[str, FolderHit]] = []
        generation, answers, notes = 0, 0, []
        for root, path in places:
            wanted = replace(request, root=root, k=page.offset + request.k + 1, paths=(path,) if path else ())
            values = await self._answering.within(context, "search", wanted, wait_seconds)
            if values is None:
                notes.append(f"PARTIAL: {root} is still being read; ask again in a few seconds")
                continue
            answer = Answer.from_json(values)
            hits += [(roots.shown(root, hit.path), hit) for result in answer.results for hit in result.hits]
            generation += answer.generation
            answers += 1
            if answer.partial:
                notes.append(f"PARTIAL: {counted(answer.pending, 'file')} of {root} not indexed yet; {answer.note}")
        hits.sort(key=lambda hit: -hit[1].score)
        text = page_of_hits(hits[: page.offset + request.k + 1], page, request.k, generation, max_characters)
        return "\n\n".join([text, *notes] if answers else notes)


class _Answering:
    """Asks the background process, and works in this process if there is none."""

    def __init__(self) -> None:
        self._opening = threading.Lock()
        self._own: FolderAnswers | None = None

    async def within(
        self, context: Context, action: str, request: SearchRequest, wait_s: float
    ) -> dict[str, Any] | None:
        """The answer to a request, or None if there is none yet a moment after `wait_s`; the work goes on then."""
        waits = True
        loop = current_token()

        def tell(done: int, total: int, what: str) -> None:
            if waits:
                with suppress(anyio.RunFinishedError):
                    anyio.from_thread.run(context.report_progress, done, total, what, token=loop)

        answer = None
        with anyio.move_on_after(wait_s + _OPENING_S):
            work = partial(self._answer, action, asdict(request), wait_s, tell)
            answer = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        waits = False
        return answer

    def _answer(self, action: str, request: dict[str, Any], wait_s: float, progress: Progress) -> dict[str, Any]:
        answer = ask(action, request, wait_s=wait_s, on_progress=progress)
        if answer is not None:
            return answer
        from colbertz.resident.server import Call

        return self._own_answers().answer(Call(action, request, wait_s, progress))

    def _own_answers(self) -> "FolderAnswers":
        from colbertz.resident.answers import FolderAnswers

        with self._opening:
            if self._own is None:
                self._own = FolderAnswers()
            return self._own


def _telling(tool: Callable[..., Awaitable[str]]) -> Callable[..., Awaitable[str]]:
    """The tool, with what the user did wrong as an error that the agent reads."""

    @wraps(tool)
    async def told(*args: Any, **kwargs: Any) -> str:
        try:
            return await tool(*args, **kwargs)
        except (UserError, OSError) as error:
            raise ToolError(str(error)) from error

    return told


def _file(roots: Roots, path: str) -> tuple[str, str]:
    """The root of a file, and its path in it."""
    root, relative = roots.named(path)[0]
    if not (Path(root) / relative).is_file():
        raise UserError(f"{path} is no file")
    return root, relative


def _lines_of_file(root: str, relative: str, start: int, end: int, max_characters: int) -> str:
    from colbertz.corpus.folder.chunks import read_content, text_of
    from colbertz.corpus.folder.content import decoded, lines_of
    from colbertz.corpus.folder.skipped import SkippedFile

    content = read_content(Path(root) / relative, relative)
    text = content if isinstance(content, SkippedFile) else text_of(content, relative)
    if not isinstance(text, SkippedFile):
        return page_of_lines(text.lines, start, end, max_characters)
    # A generated file, such as that of a package manager's locked versions, is not searched, but can be read.
    source = content if isinstance(content, SkippedFile) else decoded(content)
    if isinstance(source, SkippedFile):
        raise UserError(f"{relative} cannot be read as text: {text.reason}")
    return page_of_lines(lines_of(source), start, end, max_characters)


def _described(root: str, status: Status | None) -> str:
    if status is None:
        return f"{root}: the index is being opened; ask again in a few seconds"
    if not status.exists:
        return f"{root}: not indexed yet; the first search does it"
    pending = f", {counted(status.pending, 'chunk')} not encoded yet" if status.pending else ""
    return f"{root}: {counted(status.files, 'file')}, {counted(status.chunks, 'chunk')}{pending}"
