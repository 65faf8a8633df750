"""Which candidates become negatives, checked against a second, plainer statement of the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.distillation.negatives import Candidate, Choice, Filters, choose
from colbertz.text.normalize import normalized

QUERY = "what is the question"
# Few words, so that texts often repeat, in other case and spacing too.
TEXTS = st.sampled_from(
    ["one", "One", " one ", "two", "two  words", "TWO words", "three", "four", "five", QUERY.upper()]
)
SCORES = st.floats(-5, 30, allow_nan=False, width=32)


@st.composite
def documents(draw: st.DrawFn) -> list[Candidate]:
    """Different ids, best first."""
    made = draw(st.lists(st.builds(lambda text, score: ("", text, score), TEXTS, SCORES), max_size=12))
    return [Candidate(f"d{i}", text, score) for i, (_, text, score) in enumerate(sorted(made, key=lambda m: -m[2]))]


@st.composite
def filters(draw: st.DrawFn) -> Filters:
    low = draw(st.integers(1, 4))
    return Filters(
        num_negatives=draw(st.integers(1, 6)),
        min_rank=low,
        max_rank=draw(st.none() | st.integers(low, 8)),
        margin=draw(st.none() | st.floats(0, 5)),
        max_percentage=draw(st.none() | st.floats(0.1, 1)),
        sampling=draw(st.sampled_from(["top", "random"])),
        seed=draw(st.integers(0, 3)),
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Candidate], list[Candidate], Filters]:
    """Positives, some of which are candidates too, the candidates, and filters."""
    candidates = draw(documents())
    outside = [Candidate(f"x{i}", draw(TEXTS), draw(SCORES)) for i in range(draw(st.integers(0, 2)))]
    inside = draw(st.lists(st.sampled_from(candidates), max_size=2, unique_by=lambda c: c.id)) if candidates else []
    return [*inside, *outside] or [Candidate("x", "three", 10.0)], candidates, draw(filters())


def allowed(positives: list[Candidate], candidates: list[Candidate], rules: Filters) -> list[Candidate]:
    """What may be a negative, each rule written as a pass over the list."""
    excluded = [normalized(QUERY), *(normalized(p.text) for p in positives)]
    kept = [c for c in candidates if c.id not in [p.id for p in positives] and normalized(c.text) not in excluded]
    texts = [normalized(c.text) for c in kept]
    kept = [c for i, c in enumerate(kept) if texts[i] not in texts[:i]]
    kept = kept[rules.min_rank - 1 : rules.max_rank]
    lowest = min(p.score for p in positives)
    if rules.margin is not None:
        kept = [c for c in kept if c.score <= lowest - rules.margin]
    if rules.max_percentage is not None:
        kept = [c for c in kept if lowest > 0 and c.score <= rules.max_percentage * lowest]
    return kept


@given(problems())
def test_negatives_are_those_that_every_rule_allows(problem: tuple[list[Candidate], list[Candidate], Filters]) -> None:
    positives, candidates, rules = problem
    choice = choose(QUERY, positives, candidates, rules)
    kept = allowed(positives, candidates, rules)
    assert len(choice.negatives) == min(rules.num_negatives, len(kept))
    assert [c for c in kept if c in choice.negatives] == choice.negatives, "allowed, in order, none twice"
    if rules.sampling == "top":
        assert choice.negatives == kept[: rules.num_negatives]
    assert sum(choice.removed.values()) == len(candidates) - len(kept)


@given(problems())
def test_a_choice_depends_on_nothing_but_its_arguments(
    problem: tuple[list[Candidate], list[Candidate], Filters],
) -> None:
    positives, candidates, rules = problem
    first = choose(QUERY, positives, candidates, rules)
    choose("another query in between", positives, candidates, rules)
    assert choose(QUERY, positives[::-1], candidates, rules) == first


def ten() -> list[Candidate]:
    return [Candidate(f"d{i}", f"text {i}", 20.0 - i) for i in range(10)]


def test_ranks_begin_after_positives_and_repeated_texts_are_taken_out() -> None:
    candidates = [
        Candidate("p", "right", 30.0),
        Candidate("copy", "RIGHT", 29.0),
        Candidate("d", "text 0", 25.0),
        *ten(),
    ]
    choice = choose(QUERY, [candidates[0]], candidates, Filters(num_negatives=2, min_rank=2, max_rank=9))
    assert [c.id for c in choice.negatives] == ["d1", "d2"], "d is rank 1 and d0 repeats it"
    assert choice.removed == {"positive": 2, "duplicate": 1, "min_rank": 1, "max_rank": 1}


def test_the_lowest_of_several_positives_counts() -> None:
    positives = [Candidate("p", "right", 30.0), Candidate("r", "right too", 16.0)]
    by_margin = choose(QUERY, positives, ten(), Filters(margin=2.0, num_negatives=20))
    assert [c.score for c in by_margin.negatives] == [14.0, 13.0, 12.0, 11.0]
    assert by_margin.removed == {"margin": 6}
    by_share = choose(QUERY, positives, ten(), Filters(max_percentage=0.75, num_negatives=20))
    assert [c.score for c in by_share.negatives] == [12.0, 11.0]
    assert by_share.removed == {"max_percentage": 8}


@pytest.mark.parametrize("score", [0.0, -3.0])
def test_there_is_no_percentage_of_a_score_that_is_not_above_zero(score: float) -> None:
    """95 percent of -3 is -2.85: the filter would let negatives through that score higher than the positive."""
    candidates = [Candidate("d", "text", score - 0.1)]
    positive = Candidate("p", "right", score)
    assert choose(QUERY, [positive], candidates, Filters(max_percentage=0.95)) == Choice([], {"not_above_zero": 1})  # type: ignore[arg-type]
    assert choose(QUERY, [positive], candidates, Filters(margin=0.05)).negatives == candidates


def test_random_negatives_differ_between_queries_and_seeds_and_cover_all() -> None:
    positives = [Candidate("p", "right", 30.0)]

    def drawn(query: str, seed: int) -> tuple[str, ...]:
        rules = Filters(num_negatives=3, sampling="random", seed=seed)
        return tuple(c.id for c in choose(query, positives, ten(), rules).negatives)

    by_query = {drawn(f"query {i}", 0) for i in range(40)}
    assert len(by_query) > 20
    assert {id for ids in by_query for id in ids} == {c.id for c in ten()}
    assert len({drawn(QUERY, seed) for seed in range(40)}) > 20
    assert drawn("query 0", 0) == ("d0", "d4", "d8"), "the same in every process and on every machine"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be an integer of at least 1, got 0"),
        ({"min_rank": 0}, "min_rank must be an integer of at least 1, got 0"),
        ({"min_rank": 5, "max_rank": 4}, "max_rank must be at least min_rank, 5, got 4"),
        ({"margin": -0.1}, "margin must be a number of at least 0, got -0.1"),
        ({"max_percentage": 95.0}, "max_percentage is a share above 0 and up to 1, as 0.95, got 95"),
        ({"max_percentage": 0.0}, "max_percentage is a share"),
    ],
)
def test_filters_that_make_no_sense(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filters(**wrong)  # type: ignore[arg-type]
