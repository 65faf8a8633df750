"""`SearchOptions`: every choice that a search takes, the same for `Index`, `Searcher` and the command line."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType
from typing import Literal, TypedDict, get_args

from colbertz.errors import UserError, check_number, check_type
from colbertz.index.store.devices import Device

SqlValue = str | bytes | int | float | None
Parameters = Sequence[SqlValue] | Mapping[str, SqlValue]
# One list of ids for all queries; or for each query a list of ids, or None for all documents.
Subset = Iterable[str] | Iterable[Iterable[str] | None]
Fusion = Literal["reciprocal_rank", "weighted"]


@dataclass(frozen=True)
class SearchOptions:
    """How to search, and among which documents. The default of every option suits most searches.

    What only an index or a machine can tell, such as unknown ids or a missing device, is checked by the search.

    Attributes:
        n_ivf_probe: cells probed for each query token, rounded up to 8, 16, 32, …; None to choose by `k` and the length
            of the query.
        n_full_scores: documents scored by their centroids, at least 512; None to choose by `k`. More of either finds
            every hit that less of it finds.
        exact: score all documents.
        once: for a program that searches once and ends, such as a command: a small index is scored by brute force in
            PyTorch's operators, because the compiled kernels take longer to load. Later searches would be slower.
        where: an SQL expression over metadata fields, `id` and `text`: only documents for which it holds. If it leaves
            few documents, all of them are scored; if it leaves more, more cells are probed, so that recall stays.
        parameters: values for the question marks in `where`, or a dict for its `:names`.
        where_seconds: after which `where` is stopped. It reads all documents once, which takes milliseconds; only
            subqueries within subqueries can take longer.
        subset: ids: only these documents may be found, and none if there are no ids. Either one list for all queries,
            or a list with one item for each query: its ids, or None for all documents.
        device: None for the CPU; a CUDA device, or several that share the documents. What fits in their memory stays
            there for the next search, until `refresh`; a larger index is loaded in parts for each search. The hits are
            those of the CPU, except that rounding may decide otherwise which documents reach the last stages.
        hybrid: fuse MaxSim with BM25 over the texts (`Searcher.search`; an `Index` has `search_hybrid` for it).
        text_weight: how much BM25 counts in a hybrid search, from 0 to 1; MaxSim counts the rest.
        fusion: sum the reciprocal ranks (Cormack et al. 2009), or the scores after scaling them to 0 … 1.
        fusion_depth: hits of each ranking that are fused; None for 100, or `k` if that is more.

    Raises:
        UserError: for a count that is not an integer of at least 1, a `text_weight` that is not between 0 and 1,
            another `fusion`, or `parameters` without `where`.
        TypeError: if `subset` is not a list of ids, nor one of lists of ids and None.
    """

    n_ivf_probe: int | None = None
    n_full_scores: int | None = None
    exact: bool = False
    once: bool = False
    where: str | None = None
    parameters: Parameters = ()
    where_seconds: float = 60.0
    subset: Subset | None = None
    device: Device | None = None
    hybrid: bool = False
    text_weight: float = 0.3
    fusion: Fusion = "reciprocal_rank"
    fusion_depth: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_ivf_probe", "n_full_scores", "fusion_depth"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)
        for name in ("exact", "once", "hybrid"):
            check_type(name, getattr(self, name), bool, "True or False")
        check_type("where", self.where, (str, NoneType), "an SQL expression or None")
        check_number("where_seconds", self.where_seconds, 0)
        check_type("parameters", self.parameters, (Sequence, Mapping), "a list or a dict")
        check_type("fusion", self.fusion, str, "a string")
        if self.fusion not in get_args(Fusion):
            raise UserError(f"fusion must be one of {', '.join(get_args(Fusion))}, got {self.fusion!r}")
        if (
            not isinstance(self.text_weight, int | float)
            or isinstance(self.text_weight, bool)
            or not 0 <= self.text_weight <= 1
        ):
            raise UserError(f"text_weight must be between 0 and 1, got {self.text_weight!r}")
        if self.where is None and len(self.parameters):
            raise UserError(f"there are {len(self.parameters)} parameters and no where")
        if self.subset is not None:
            # A generator can be read only once, and a list could change while a search uses it: keep a tuple.
            object.__setattr__(self, "subset", _as_tuple(self.subset))

    def subset_of_each(self, num_queries: int) -> list[tuple[str, ...] | None]:
        """The ids that each of the queries may find, None for all documents.

        Raises:
            UserError: if there is a list of ids for each query and there are not `num_queries` of them.
        """
        if self.subset is None:
            return [None] * num_queries
        items = tuple(self.subset)
        ids = tuple(item for item in items if isinstance(item, str))
        if len(ids) == len(items):
            return [ids] * num_queries
        if len(items) != num_queries:
            raise UserError(f"there are {len(items)} subsets for {num_queries} queries; give one for each")
        return [None if item is None else tuple(item) for item in items]


# Making and checking options takes as long as a stage of a search.
_DEFAULTS = SearchOptions()


class SearchKeywords(TypedDict, total=False):
    """The fields of `SearchOptions` as keyword arguments."""

    n_ivf_probe: int | None
    n_full_scores: int | None
    exact: bool
    once: bool
    where: str | None
    parameters: Parameters
    where_seconds: float
    subset: Subset | None
    device: Device | None
    hybrid: bool
    text_weight: float
    fusion: Fusion
    fusion_depth: int | None


def with_overrides(options: SearchOptions | None, overrides: SearchKeywords) -> SearchOptions:
    """`options`, or the defaults if None, with the fields that `overrides` names replaced.

    Raises:
        UserError, TypeError: as `SearchOptions`, and TypeError for a keyword that is not one of its fields.
    """
    check_type("options", options, (SearchOptions, NoneType), "SearchOptions or None")
    chosen = _DEFAULTS if options is None else options
    return replace(chosen, **overrides) if overrides else chosen


def check_count(name: str, value: object) -> None:
    """Raise UserError unless `value` is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} must be an integer of at least 1, got {value!r}")


def _as_tuple(subset: Subset) -> tuple[str, ...] | tuple[tuple[str, ...] | None, ...]:
    if isinstance(subset, str) or not isinstance(subset, Iterable):
        raise TypeError(f"subset must be a list of ids, got {'the string ' * isinstance(subset, str)}{subset!r:.80}")
    items = tuple(subset)
    ids = tuple(item for item in items if isinstance(item, str))
    if len(ids) == len(items):
        return ids
    for item in items:
        if item is not None and (isinstance(item, str) or not isinstance(item, Iterable)):
            raise TypeError(f"subset must hold ids, or for each query a list of ids or None, got {item!r} in it")
    return tuple(None if item is None else tuple(item) for item in items)
