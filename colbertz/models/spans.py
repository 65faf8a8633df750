"""Where each token of a text comes from: which of its characters, or what else the tokenizer put there."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from colbertz.models.tokenizer import ColBERTTokenizer, Side, cut

Kind = Literal["text", "prompt", "prefix", "special", "expansion"]


@dataclass(frozen=True)
class TokenSpan:
    """A token and where it comes from.

    Attributes:
        token: decoded; a token that is no text by its name, as [CLS].
        kind: "text" for one of the text's own, "prompt" for one of the prompt, "prefix" for the marker of the side,
            "expansion" for one that fills a query up, "special" for the others, as [CLS] and [SEP].
        start, end: its characters in the text; both 0 unless `kind` is "text".
    """

    token: str
    kind: Kind
    start: int = 0
    end: int = 0


def token_spans(tokenizer: ColBERTTokenizer, text: str, side: Side) -> list[TokenSpan]:
    """The tokens of a text that have an embedding, in their order, each with its place in the text.

    Args:
        tokenizer: as the model's.
        text: without prompt.
        side: whether it is read as a query or as a document.
    """
    tokens = tokenizer.tokenise([text], side)
    prompt = tokenizer.settings.prompt(side)
    encoding = tokenizer.backend.encode(tokenizer.input_of(prompt + text))
    prefix = tokenizer.prefix_id(side)
    # The places in `encoding` of the text's tokens, without the prefix token: cut as the tokenizer cuts.
    places = list(range(len(encoding.ids)))
    max_length = tokenizer.settings.length(side) - (prefix is not None)
    if len(places) > max_length:
        places = cut(places, encoding.special_tokens_mask, max_length)
    source = _Source(tokenizer, prompt, text)
    spans = []
    for position, token in enumerate(tokens.ids.values.tolist()):
        name = tokenizer.backend.decode([token]).strip() or str(tokenizer.backend.id_to_token(token))
        place = position - (prefix is not None and position > 0)
        if prefix is not None and position == 1:
            spans.append(TokenSpan(name, "prefix"))
        elif place >= len(places):
            spans.append(TokenSpan(name, "expansion"))
        elif encoding.special_tokens_mask[places[place]]:
            spans.append(TokenSpan(name, "special"))
        else:
            spans.append(source.span(name, *encoding.offsets[places[place]]))
    if tokens.scored is None:
        return spans
    return [span for span, scored in zip(spans, tokens.scored.tolist()) if scored]


class _Source:
    """Takes places in what the backend got back to places in the text."""

    def __init__(self, tokenizer: ColBERTTokenizer, prompt: str, text: str) -> None:
        whole = prompt + text
        stripped = len(whole) - len(whole.lstrip()) if tokenizer.settings.do_strip else 0
        # Where each character of `whole` begins in the input: lower-casing makes some characters longer.
        widths = [len(char.lower()) if tokenizer.settings.do_lower_case else 1 for char in whole[stripped:]]
        self._begins = [0, *accumulate(widths)]
        self._shift = stripped - len(prompt)

    def span(self, name: str, start: int, end: int) -> TokenSpan:
        """The span of a token at `start` to `end` of the backend's input."""
        first = bisect_right(self._begins, start) - 1 + self._shift
        last = bisect_right(self._begins, max(end - 1, start)) + self._shift
        return TokenSpan(name, "prompt") if last <= 0 else TokenSpan(name, "text", max(first, 0), last)
