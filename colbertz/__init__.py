"""Late-interaction (ColBERT) retrieval in plain PyTorch.

The names below load on first use, so that `import colbertz` and the command line's help do not wait for torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colbertz.index import Index as Index
    from colbertz.maxsim import maxsim as maxsim
    from colbertz.maxsim import maxsim_candidates as maxsim_candidates
    from colbertz.maxsim import quantised as quantised
    from colbertz.models import ColBERT as ColBERT
    from colbertz.ragged import Ragged as Ragged
    from colbertz.searcher import Searcher as Searcher

__version__ = "0.1.0"

_HOMES = {
    "ColBERT": "colbertz.models",
    "Index": "colbertz.index",
    "Ragged": "colbertz.ragged",
    "Searcher": "colbertz.searcher",
    "maxsim": "colbertz.maxsim",
    "maxsim_candidates": "colbertz.maxsim",
    "quantised": "colbertz.maxsim",
}
__all__ = ["ColBERT", "Index", "Ragged", "Searcher", "__version__", "maxsim", "maxsim_candidates", "quantised"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'colbertz' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module colbertz.maxsim makes Python set the attribute `maxsim` to the module;
        # the function is what the name stands for.
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
