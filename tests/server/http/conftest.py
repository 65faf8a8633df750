"""One server with a tiny model for the tests that need no special one, and one with tokens and tight limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ADMIN, LIMITS, READER, WRITER, Server, serving


@pytest.fixture(scope="session")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served"), "--model", str(checkpoint)) as running:
        yield running


@pytest.fixture(scope="session")
def strict(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for anyone with a token: READER reads, WRITER reads and writes, ADMIN may do everything."""
    folder = tmp_path_factory.mktemp("strict")
    tokens = folder / "tokens"
    tokens.write_text(f"# who may do what\nread {READER}\nread,write {WRITER}\n\nread,write,admin {ADMIN}  # us\n")
    limits = [word for name, value in LIMITS.items() for word in (f"--{name}", str(value))]
    origin = ["--cors-origin", "https://example.org"]
    with serving(folder / "root", "--model", str(checkpoint), "--tokens", str(tokens), *limits, *origin) as running:
        yield running
