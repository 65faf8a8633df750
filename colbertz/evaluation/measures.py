"""The field's measures by their usual names, computed by ir_measures (with pytrec_eval underneath)."""

from collections.abc import Mapping, Sequence
from subprocess import SubprocessError
from typing import Any

import numpy as np

from colbertz.errors import UserError, require
from colbertz.evaluation.runs import Run

DEFAULT = ("nDCG@10", "MRR@10", "MAP", "R@100", "P@10")


def parse(names: Sequence[str]) -> dict[str, Any]:
    """ir_measures' objects by the names they were asked for: nDCG@10, MRR@10, MAP, R@100, P@5, Success@1 …

    Raises:
        ValueError: for a name that is no measure.
        MissingExtra: without ir_measures, which the extra `eval` installs.
    """
    ir_measures = require("ir_measures", "eval")

    parsed = {}
    for name in names:
        try:
            parsed[name] = ir_measures.parse_measure(name)
        except (NameError, ValueError, SyntaxError, KeyError, TypeError) as error:
            raise UserError(f"{name!r} is not a measure; there are nDCG@10, MRR@10, MAP, R@100, P@10 …") from error
    return parsed


def check(gains: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> None:
    """Whether these measures can be computed from these gains: to be asked before a search rather than after it.

    Raises:
        ValueError, MissingExtra: as `per_query`.
    """
    query, row = next(iter(gains.items()))
    per_query(gains, {query: {next(iter(row)): 1.0}}, names)


def deepest(names: Sequence[str]) -> int:
    """The largest k of measures such as R@1000, which so many documents of each query are needed for; 0 without one."""
    return max((measure.params.get("cutoff", 0) for measure in parse(names).values()), default=0)


def per_query(
    gains: Mapping[str, Mapping[str, float]], run: Run, names: Sequence[str] = DEFAULT
) -> dict[str, dict[str, float]]:
    """Each measure of each query, {measure: {query id: value}}; a query for which nothing was found counts 0.

    Args:
        gains: query id -> document id -> gain of all that was judged; queries that are not here do not count, and
            those without a relevant document count 0.
        run: what was found. Equal scores are ordered as trec_eval orders them, by document id from the last.
        names: measures.

    Raises:
        ValueError: for a name that is no measure or one that cannot be computed, a gain that is not a whole number, or
            if no query of the run is judged.
        MissingExtra: as `parse`.
    """
    measures = parse(names)
    odd = {gain for row in gains.values() for gain in row.values() if not float(gain).is_integer()}
    if odd:
        raise UserError(f"gains must be whole numbers, as in trec_eval's qrels; there is {min(odd)}")
    if not run.keys() & gains.keys():
        raise UserError("no query of the run is judged; do run and qrels belong together?")
    ir_measures = require("ir_measures", "eval")

    qrels = {query: {id: int(gain) for id, gain in row.items()} for query, row in gains.items()}
    ranked = {query: _places(scores) for query, scores in run.items() if scores}
    # By what ir_measures calls it: MRR@10 and RR@10 are one.
    found: dict[str, dict[str, float]] = {str(measure): dict.fromkeys(gains, 0.0) for measure in measures.values()}
    try:
        for metric in ir_measures.iter_calc(list(measures.values()), qrels, ranked):
            found[str(metric.measure)][metric.query_id] = float(metric.value)
    except (ValueError, AssertionError, RuntimeError, SubprocessError, OSError) as error:
        raise UserError(f"ir_measures cannot compute all of {', '.join(names)}: {error}") from error
    return {name: dict(found[str(measure)]) for name, measure in measures.items()}


def _places(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores made whole numbers without ties, in trec_eval's order: single precision, equal ones by id, backwards.

    Of ir_measures' programs each has another order: that of MRR@10 the reverse.
    """
    single = np.array(list(scores.values()), np.float32).tolist()
    return {id: float(place) for place, (_, id) in enumerate(sorted(zip(single, scores)))}
