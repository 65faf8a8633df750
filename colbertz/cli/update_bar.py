"""How far the update of a folder's index is, on stderr: a bar for each step that takes longer than a second."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def update_bar(root: Path) -> Iterator[Callable[[int, int, str], None]]:
    """Show what `Folder.update` reports.

    Args:
        root: the folder.

    Yields:
        the function to give to it as `progress`.
    """
    step, shown = "", 0
    bar: Any = None
    with ExitStack() as bars:

        def show(done: int, total: int, what: str) -> None:
            nonlocal step, shown, bar
            if what != step:
                from colbertz.progress import progress

                bars.close()
                bar = bars.enter_context(progress(f"updating {root.name}", total, what))
                step, shown = what, 0
            bar.update(done - shown)
            shown = done

        yield show
