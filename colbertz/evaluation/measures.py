"""The measures of the field by their usual names, computed by ir_measures (which calls pytrec_eval).

Training uses the three of `colbertz.evaluation.metrics` instead, which need no extra package.
"""

from collections.abc import Mapping, Sequence
from subprocess import SubprocessError
from typing import Any

import numpy as np

from colbertz.errors import UserError, require
from colbertz.evaluation.runs import Run

DEFAULT = ("nDCG@10", "MRR@10", "MAP", "R@100", "P@10")


def parse(names: Sequence[str]) -> dict[str, Any]:
    """The objects of ir_measures for names such as nDCG@10, MRR@10, MAP, R@100, P@5, Success@1.

    Raises:
        UserError: for a name that is no measure.
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


def check(qrels: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> None:
    """Check that these measures can be computed from these judgements: call it before a search rather than after it.

    Raises:
        UserError, MissingExtra: as `per_query`.
    """
    query_id, gains = next(iter(qrels.items()))
    per_query(qrels, {query_id: {next(iter(gains)): 1.0}}, names)


def deepest(names: Sequence[str]) -> int:
    """The largest k of measures such as R@1000, which need k documents of each query; 0 without such a measure."""
    return max((measure.params.get("cutoff", 0) for measure in parse(names).values()), default=0)


def per_query(
    qrels: Mapping[str, Mapping[str, float]], run: Run, names: Sequence[str] = DEFAULT
) -> dict[str, dict[str, float]]:
    """Each measure of each query, {measure: {query id: value}}; a query without hits counts 0.

    Args:
        qrels: query id -> document id -> gain of every judged document. Queries that are not here do not count, and
            those without a relevant document count 0.
        run: the hits. Those of equal scores are ordered as trec_eval orders them, by document id from the last.
        names: measures.

    Raises:
        UserError: for a name that is no measure or one that cannot be computed, a gain that is not a whole number, or
            if no query of the run is judged.
        MissingExtra: as `parse`.
    """
    measures = parse(names)
    fractions = {gain for gains in qrels.values() for gain in gains.values() if not float(gain).is_integer()}
    if fractions:
        raise UserError(f"gains must be whole numbers, as in trec_eval's qrels; there is {min(fractions)}")
    if not run.keys() & qrels.keys():
        raise UserError("no query of the run is judged; do run and qrels belong together?")
    ir_measures = require("ir_measures", "eval")

    whole = {query_id: {doc_id: int(gain) for doc_id, gain in gains.items()} for query_id, gains in qrels.items()}
    ranked = {query_id: _without_ties(scores) for query_id, scores in run.items() if scores}
    # The keys are ir_measures' own names, since two names of ours, such as MRR@10 and RR@10, may be one measure.
    values: dict[str, dict[str, float]] = {str(measure): dict.fromkeys(qrels, 0.0) for measure in measures.values()}
    try:
        for metric in ir_measures.iter_calc(list(measures.values()), whole, ranked):
            values[str(metric.measure)][metric.query_id] = float(metric.value)
    except (ValueError, AssertionError, RuntimeError, SubprocessError, OSError) as error:
        raise UserError(f"ir_measures cannot compute all of {', '.join(names)}: {error}") from error
    return {name: dict(values[str(measure)]) for name, measure in measures.items()}


def _without_ties(scores: Mapping[str, float]) -> dict[str, float]:
    """Whole numbers in trec_eval's order: by score in single precision, and for equal ones by id, from the last.

    The programs that ir_measures calls order ties differently: the one for MRR@10 has the reverse order.
    """
    single = np.array(list(scores.values()), np.float32).tolist()
    return {doc_id: float(place) for place, (_, doc_id) in enumerate(sorted(zip(single, scores)))}
