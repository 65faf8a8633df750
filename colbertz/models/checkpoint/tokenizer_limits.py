r"""What a tokenizer.json may ask for, so that the time and memory that it takes are in proportion to the text.

A tokenizer is a small program. Its regular expressions are matched by backtracking, its replacements can double a text
forty times in a row, and one id of 2³¹ would ask for as many rows of the embedding matrix. What cannot be bounded is
refused here, before the tokenizers library sees it; the limits are far from what published tokenizers need.

A regular expression takes linear time if it is one that published tokenizers use, or if each of its alternatives
repeats without limit only at its end, where nothing can fail and be tried again: ` ?\p{L}+`, but not `(a+)+` and not
`a*b`.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from colbertz.models.checkpoint.layouts import CheckpointError

# Bytes of a tokenizer.json. The largest published one, with 256,000 tokens, has 34 MB.
MOST_TOKENIZER_BYTES = 64 * 2**20
# Added tokens; published tokenizers have up to 6,500. The library needs 4 seconds for 100,000.
_MOST_ADDED_TOKENS = 20_000
# Normalizers and pre-tokenizers.
_MOST_COMPONENTS = 100
# How many times longer normalization and pre-tokenization may make a text.
_MOST_GROWTH = 256
# Characters of a word that WordPiece splits, in time that grows with their square. 100 in all published tokenizers.
_MOST_WORD_CHARACTERS = 1_000
# Characters of a token of a Unigram model, each of which is tried at each place of a text.
_MOST_TOKEN_CHARACTERS = 1_000
# Special tokens that are put around a text.
_MOST_AROUND = 16
# Bytes that a ByteLevel component makes of a character.
_BYTES_OF_A_CHARACTER = 4
# How often a bounded part of a regular expression may be tried at one place.
_MOST_TRIES = 1_000

_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# Of GPT-2; of GPT-4 and Llama 3; of Qwen 2; of GPT-4o.
_PUBLISHED = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    rf"{_ENDINGS}|{_LETTERS}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
    rf"{_ENDINGS}|{_LETTERS}\p{{L}}+|\p{{N}}|{_REST}",
    rf"{_LETTERS}{_UPPER}*{_LOWER}+{_ENDINGS}?|{_LETTERS}{_UPPER}+{_LOWER}*{_ENDINGS}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
# A character, a class, or an anchor.
_CHARACTER = (
    r"(?:\\[pP]\{\^?\w+\}|\\x\{[0-9A-Fa-f]+\}|\\[^pPxkg0-9]"
    r"|\[\^?(?:\\[pP]\{\^?\w+\}|\\[^pP]|[^\[\]\\&])+\]|[^\\\[\](){}|*+?])"
)
# One of them and how often it is repeated, or what must or must not stand before or after this place.
_ATOM = re.compile(rf"\(\?<?[=!]{_CHARACTER}+\)|{_CHARACTER}(?P<times>[*+?]|\{{\d+(?:,\d*)?\}})?(?P<kind>[+?])?")


def check_tokenizer(path: Path, content: dict[str, Any]) -> None:
    """Check the content of a tokenizer.json.

    Raises:
        CheckpointError: if it is not built as one, or asks for something that has no bound.
    """
    added, model = content.get("added_tokens") or [], content.get("model")
    if not isinstance(added, list) or not all(_is_added_token(token) for token in added):
        raise CheckpointError(f"{path}: added_tokens should be a list of objects with id and content")
    if len(added) > _MOST_ADDED_TOKENS:
        raise CheckpointError(f"{path} has {len(added):,} added tokens, at most {_MOST_ADDED_TOKENS:,} are supported")
    if not isinstance(model, dict):
        raise CheckpointError(f"{path} has no model; it is not a tokenizer.json, or is damaged")
    _check_ids(path, model.get("vocab"), [token["id"] for token in added])
    _check_model(path, model)
    growth, components = 1, 0
    for section in ("normalizer", "pre_tokenizer"):
        for component in _components(path, section, content.get(section)):
            components += 1
            growth *= _growth(path, component)
    if components > _MOST_COMPONENTS:
        raise CheckpointError(f"{path} has {components:,} normalizers and pre-tokenizers, at most {_MOST_COMPONENTS}")
    if growth > _MOST_GROWTH:
        raise CheckpointError(
            f"{path}: its normalizer and pre_tokenizer can make a text {growth:,} times longer, at most {_MOST_GROWTH}"
        )
    for component in _components(path, "decoder", content.get("decoder")):
        _check_regex(path, component)
    _check_around(path, content.get("post_processor"))


def _is_added_token(token: Any) -> bool:
    return isinstance(token, dict) and type(token.get("id")) is int and isinstance(token.get("content"), str)


def _check_ids(path: Path, vocabulary: Any, added: list[int]) -> None:
    """Refuse ids with large gaps: every id up to the highest one would need a row of the embedding matrix."""
    ids: list[Any] = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    number = len(vocabulary) if isinstance(vocabulary, dict | list) else 0
    if not all(type(i) is int for i in ids):
        raise CheckpointError(f"{path}: the ids of its vocabulary should be integers")
    highest, most = max([*ids, *added], default=0), 2 * (number + len(added)) + _MOST_ADDED_TOKENS
    if highest > most:
        raise CheckpointError(
            f"{path} gives a token the id {highest} but has {number + len(added):,} tokens; it is damaged"
        )


def _check_model(path: Path, model: dict[str, Any]) -> None:
    if model.get("dropout"):
        raise CheckpointError(
            f"{path}: dropout is {model['dropout']!r}, so that tokens would be random; set it to null"
        )
    most = model.get("max_input_chars_per_word", 0)
    if type(most) is not int or most > _MOST_WORD_CHARACTERS:
        raise CheckpointError(
            f"{path}: max_input_chars_per_word should be at most {_MOST_WORD_CHARACTERS}, found {most!r:.80}"
        )
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):
        for entry in vocabulary:
            if isinstance(entry, list) and entry and len(str(entry[0])) > _MOST_TOKEN_CHARACTERS:
                raise CheckpointError(
                    f"{path} has a token of {len(str(entry[0])):,} characters, at most {_MOST_TOKEN_CHARACTERS:,}"
                )


def _components(path: Path, section: str, value: Any) -> Iterator[dict[str, Any]]:
    """The normalizers, pre-tokenizers … of a section, those in sequences one by one."""
    waiting = [] if value is None else [value]
    while waiting:
        component = waiting.pop()
        if not isinstance(component, dict) or not isinstance(component.get("type"), str):
            raise CheckpointError(f"{path}: {section} should be an object with a type, found {component!r:.80}")
        parts = [value for key, value in component.items() if key in ("normalizers", "pretokenizers", "decoders")]
        for part in parts:
            if not isinstance(part, list):
                raise CheckpointError(f"{path}: {section} should list its parts, found {part!r:.80}")
            waiting += part
        if not parts:
            yield component


def _growth(path: Path, component: dict[str, Any]) -> int:
    """How many times longer a component may make a text."""
    pattern, content = component.get("pattern"), component.get("content")
    _check_regex(path, component)
    if isinstance(content, str):
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        length = len(literal) if isinstance(literal, str) and literal else 1
        return max(1, -(-len(content) // length)) + (not literal)
    if isinstance(prepended := component.get("prepend"), str):
        return max(1, len(prepended))
    if isinstance(charsmap := component.get("precompiled_charsmap"), str):
        return _longest_replacement(path, charsmap)
    return _BYTES_OF_A_CHARACTER if component["type"] == "ByteLevel" else 1


def _longest_replacement(path: Path, charsmap: str) -> int:
    """Bytes of the longest text by which SentencePiece's table replaces a character.

    The table is the length of a trie in four bytes, the trie, and the texts, each with a zero at its end.
    """
    try:
        table = base64.b64decode(charsmap, validate=True)
    except ValueError as error:
        raise CheckpointError(f"{path}: precompiled_charsmap is not base64 ({error})") from None
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(1, *map(len, texts.split(b"\0")))


def _check_regex(path: Path, component: dict[str, Any]) -> None:
    pattern = component.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if regex is not None and not (isinstance(regex, str) and is_linear(regex)):
        raise CheckpointError(
            f"{path}: the regular expression {regex!r:.100} may need more than linear time; "
            "use one that repeats without limit only at the end of an alternative"
        )


def is_linear(pattern: str) -> bool:
    """Whether matching a regular expression throughout a text takes time in proportion to the text."""
    if pattern in _PUBLISHED:
        return True
    position, tries = 0, 1
    ended = False  # whether the alternative has a repetition without limit
    while position < len(pattern):
        if pattern[position] == "|":
            position, tries, ended = position + 1, 1, False
            continue
        atom = _ATOM.match(pattern, position)
        if atom is None or ended:
            return False
        times = atom["times"] or ""
        ended = times in ("*", "+") or times.endswith(",}")
        counts = [int(count) for count in re.findall(r"\d+", times)]
        tries *= 2 if times == "?" else 1 + max(counts, default=0)
        if tries > _MOST_TRIES:
            return False
        position = atom.end()
    return True


def _check_around(path: Path, processor: Any) -> None:
    """Refuse a post-processor that puts many tokens around a text."""
    number, waiting = 0, [processor]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            template, specials = value.get("single"), value.get("special_tokens")
            number += len(template) if isinstance(template, list) else 0
            for special in specials.values() if isinstance(specials, dict) else ():
                ids = special.get("ids") if isinstance(special, dict) else None
                if not isinstance(ids, list) or len(ids) != 1:
                    raise CheckpointError(f"{path}: each special token of its post_processor should have one id")
            waiting += [value[key] for key in ("processors",) if key in value]
        elif isinstance(value, list):
            waiting += value
    if number > _MOST_AROUND:
        raise CheckpointError(
            f"{path}: its post_processor puts {number:,} tokens around a text, at most {_MOST_AROUND}"
        )
