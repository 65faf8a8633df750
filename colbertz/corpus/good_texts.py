"""Documents whose texts can be encoded."""

from collections.abc import Iterable, Iterator
from typing import Any

from colbertz.corpus.rows import BadTexts
from colbertz.document import Document
from colbertz.errors import UserError


def refuse_string(name: str, texts: object) -> None:
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a list or another iterable of texts, got one string")


def with_good_texts(documents: Iterable[Document], bad_texts: BadTexts) -> Iterator[Document]:
    """The documents whose texts can be encoded; the others go to `bad_texts`."""
    for number, document in enumerate(documents):
        error = _text_error(document, number)
        if error is None:
            yield document
        else:
            bad_texts.add(error)


def _text_error(document: Document, number: int) -> Exception | None:
    """Why the text of a document, which is `number` of its input, cannot be encoded; None if it can."""
    text: Any = document.text
    if text is None:
        return UserError(f"{document.named(number)} has no text to encode; leave it out, or skip such documents")
    if not isinstance(text, str):
        return TypeError(f"{document.named(number)}: texts must be strings, got {type(text).__name__}: {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!r}, half a character"
        return UserError(f"{document.named(number)} has {half}; decode it from its bytes again")
    return None
