"""Late-interaction (ColBERT) retrieval in plain PyTorch.

The names below load on first use, so that `import colbertz` and the command line's help do not wait for torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from colbertz.document import Document as Document
    from colbertz.explanation import Explanation as Explanation
    from colbertz.index import Hit as Hit
    from colbertz.index import Index as Index
    from colbertz.index import SearchOptions as SearchOptions
    from colbertz.maxsim import maxsim as maxsim
    from colbertz.maxsim import maxsim_candidates as maxsim_candidates
    from colbertz.maxsim import quantised as quantised
    from colbertz.models import ColBERT as ColBERT
    from colbertz.ragged import Ragged as Ragged
    from colbertz.searcher import Searcher as Searcher

__version__ = "0.1.0"

# The module in which each public name is defined.
_HOMES = {
    "ColBERT": "colbertz.models",
    "Document": "colbertz.document",
    "Explanation": "colbertz.explanation",
    "Hit": "colbertz.index",
    "Index": "colbertz.index",
    "Ragged": "colbertz.ragged",
    "SearchOptions": "colbertz.index",
    "Searcher": "colbertz.searcher",
    "maxsim": "colbertz.maxsim",
    "maxsim_candidates": "colbertz.maxsim",
    "quantised": "colbertz.maxsim",
}
__all__ = [
    "ColBERT",
    "Document",
    "Explanation",
    "Hit",
    "Index",
    "Ragged",
    "SearchOptions",
    "Searcher",
    "__version__",
    "maxsim",
    "maxsim_candidates",
    "quantised",
]


if not TYPE_CHECKING:  # type checkers would take a module with __getattr__ to have every name, misspelt ones too

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'colbertz' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # When the module colbertz.maxsim is imported, Python sets the attribute `maxsim` of this package to that
        # module. The public name `maxsim` is the function in it.
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
