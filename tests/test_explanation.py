"""Explanations: which characters a token comes from, and which words met."""

import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import ORDINARY

from colbertz import ColBERT, Document, Explanation, Searcher
from colbertz.display import format_explanation, fragment, page
from colbertz.models.spans import TokenSpan, token_spans
from colbertz.models.tokenizer import ColBERTTokenizer

TEXTS = [*ORDINARY[:4], "", "  \n blanks around\t", "naïve İstanbul ΣΑΣ", "夜の東京 🙂🙂", "a, b; c!", "word " * 400]


@pytest.fixture(scope="module")
def tokenizers() -> list[ColBERTTokenizer]:
    """Those of a model with prefix tokens, with and without prompts, lower-casing and stripping."""
    nano = ColBERT.from_pretrained("colbertz/nano")
    backend, special, base = nano.tokenizer.backend, nano.tokenizer.special_tokens, nano.settings
    prompts = {"query": " search_query: ", "document": "search_document: "}
    changes = [{}, {"prompts": prompts}, {"prompts": prompts, "do_lower_case": True}, {"do_strip": False}]
    return [ColBERTTokenizer(backend, base.overridden(change), special) for change in changes]


@pytest.mark.parametrize("side", ["query", "document"])
def test_there_is_one_span_for_each_embedding(tokenizers: list[ColBERTTokenizer], side: str) -> None:
    for tokenizer in tokenizers:
        for text in TEXTS:
            tokens = tokenizer.tokenise([text], side)  # type: ignore[arg-type]
            scored = len(tokens.ids.values) if tokens.scored is None else int(tokens.scored.sum())
            spans = token_spans(tokenizer, text, side)  # type: ignore[arg-type]
            assert len(spans) == scored
            kinds = [span.kind for span in spans]
            assert kinds[0] == "special" and kinds.count("prefix") == 1
            assert ("prompt" in kinds) == bool(tokenizer.settings.prompts)
            places = [(span.start, span.end) for span in spans if span.kind == "text"]
            assert places == sorted(places) and all(0 <= start < end <= len(text) for start, end in places)


def normal(text: str) -> str:
    """Compatible characters as one, without case: tokenizers normalise."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_a_span_has_the_characters_of_its_token(tokenizers: list[ColBERTTokenizer], text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    for tokenizer in tokenizers:
        for span in token_spans(tokenizer, text, "document"):
            source = text[span.start : span.end]
            # Tokens that are a part of a character, or of a control character, have names that no text has.
            if span.kind == "text" and span.token.isascii() and source.isprintable():
                assert normal(span.token) in normal(source), (span, text)


def made(query: str, document: str, scores: list[list[float]]) -> Explanation:
    """An explanation with one token for each word, and [CLS] first on both sides."""

    def tokens(text: str) -> tuple[TokenSpan, ...]:
        words = [TokenSpan(match[0], "text", *match.span()) for match in re.finditer(r"\S+", text)]
        return (TokenSpan("[CLS]", "special"), *words)

    return Explanation(query, Document("d", document), tokens(query), tokens(document), torch.tensor(scores))


def test_the_heat_map_of_a_score_that_is_worked_out_by_hand() -> None:
    # Rows: [CLS], red, fox. Columns: [CLS], a, fox, runs.
    explanation = made("red fox", "a fox runs", [[0.9, 0.1, 0.2, 0.3], [0.6, 0.2, 0.5, 0.1], [0.3, 0.1, 0.8, 0.4]])
    assert explanation.score == pytest.approx(0.9 + 0.6 + 0.8)
    assert [(m.query_token, m.document_token, m.kind) for m in explanation.matches] == [
        ("[CLS]", "[CLS]", "special"),
        ("red", "[CLS]", "text"),
        ("fox", "fox", "text"),
    ]
    heatmap = explanation.heatmap()
    assert heatmap["query_words"] == [
        {"start": 0, "end": 3, "score": 0.6, "met": "[CLS]"},
        {"start": 4, "end": 7, "score": 0.8, "met": "fox"},
    ]
    assert heatmap["other"] == pytest.approx(0.9)
    assert heatmap["document_words"] == [[0, 1], [2, 5], [6, 10]]
    assert heatmap["heat"] == [0, 0.8, 0], "what [CLS] won is no word's"
    assert heatmap["strengths"] == [[[1, 0.5], [0, 0.2], [2, 0.1]], [[1, 0.8], [2, 0.4], [0, 0.1]]]


def test_tokens_of_one_word_count_together() -> None:
    spans = (TokenSpan("un", "text", 0, 2), TokenSpan("happy", "text", 2, 7))
    explanation = Explanation("unhappy", Document("d", "unhappy"), spans, spans, torch.eye(2))
    heatmap = explanation.heatmap()
    assert heatmap["query_words"] == [{"start": 0, "end": 7, "score": 2.0, "met": "unhappy"}]
    assert heatmap["heat"] == [2.0] and heatmap["strengths"] == [[[0, 1.0]]]


def test_an_explanation_adds_up_whatever_the_text(checkpoint: Path, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if text.strip()]
    searcher = Searcher.build(tmp_path / "index", checkpoint, texts)
    for hit in searcher.search("a lazy dog, 東京", k=len(texts)):
        explanation = searcher.explain("a lazy dog, 東京", hit.id)
        heatmap = explanation.heatmap()
        assert explanation.score == pytest.approx(hit.score, rel=1e-3)
        assert heatmap["other"] + sum(word["score"] for word in heatmap["query_words"]) == pytest.approx(
            hit.score, abs=0.02
        )
        assert json.loads(json.dumps(heatmap)) == heatmap
        assert format_explanation(heatmap, color=True)


class _Texts(HTMLParser):
    """The text of a page and the names of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_the_text_and_nothing_of_a_document_is_markup() -> None:
    hostile = "</script><script>alert(1)</script> <!-- <script> <img src=x> & fox"
    width = len(re.findall(r"\S+", hostile)) + 1
    explanation = made("fox <b>", hostile, [[0.5] * width] * 3)
    for html in (explanation._repr_html_(), page([explanation.heatmap()], "fox <b>")):
        parsed = _Texts()
        parsed.feed(html)
        assert hostile in parsed.text
        assert "img" not in parsed.tags and "b" not in parsed.tags
        assert html.count("</script>") == parsed.tags.count("script") == 2
        values = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
        assert values and json.loads(values[1]) == explanation.heatmap()
        assert not re.search(r"(src|href)=", re.sub(r"&lt;.*?&gt;", "", html.split("application/json")[0]))


def test_a_notebook_shows_an_explanation_as_html() -> None:
    explanation = made("fox", "fox", [[0.1, 0.2], [0.3, 0.9]])
    assert explanation._repr_html_() == fragment(explanation.heatmap())


def test_a_notebook_shows_hits_with_their_passages(checkpoint: Path, tmp_path: Path) -> None:
    texts = ["A <b>lazy</b> dog.", "Ice & snow."]
    searcher = Searcher.build(tmp_path / "index", checkpoint, texts, metadata=[{"title": "<i>"}, {}])
    hits = searcher.search("lazy dog", hybrid=True)
    html = hits._repr_html_()  # type: ignore[attr-defined]
    assert "&lt;b&gt;<mark>lazy</mark>&lt;/b&gt; <mark>dog</mark>." in html and "&lt;i&gt;" in html
    assert "maxsim" in html and "Ice &amp; snow." in html
    assert hits == list(hits) and len(searcher.search(["lazy", "dog"])) == 2
    assert "no document" in searcher.search("dog", subset=[])._repr_html_()  # type: ignore[attr-defined]
