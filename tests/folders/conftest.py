"""A small folder with code, tests and documentation, and its index."""

from pathlib import Path

import pytest

from colbertz.folders.folder import Folder

FILES = {
    "src/dates.py": '''"""Reading dates."""


def parseDate(text):
    """Turn a string such as 2024-02-29 into a date.

    The three parts are whole numbers with hyphens between them: the year, the month and the day. Other ways to write
    a date, such as 29.2.2024 or 2/29/2024, are not understood, and a wrong string is an error that names it.
    """
    year, month, day = map(int, text.split("-"))
    return year, month, day


def days_between(first, last):
    """How many days lie between two dates.

    Both are numbers of days since the same moment, so that a subtraction is all that it takes. The result is negative
    if the first one is the later one; callers who do not care about the order take its absolute value.
    """
    return last - first
''',
    "src/retry.py": '''"""Repeating requests."""


class Retry:
    def run(self, request):
        """Send a failed request again, with growing pauses."""
        for pause in (1, 2, 4):
            try:
                return request()
            except OSError:
                sleep(pause)
''',
    "tests/test_dates.py": """from dates import parseDate


def test_parse_date():
    assert parseDate("2024-02-29") == (2024, 2, 29)
""",
    "README.md": """# Dates

## Install

Run the installer and wait.

## Use

Call the function with a string.
""",
    "notes.txt": "Bread rises because yeast makes gas.\n",
}


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_files(tmp_path / "project", FILES)
    return tmp_path / "project"


@pytest.fixture
def folder(root: Path, tmp_path: Path, checkpoint: Path) -> Folder:
    """The folder with an index that is up to date."""
    folder = Folder.open(root, tmp_path / "home", str(checkpoint))
    folder.update()
    return folder
