"""Texts to tokens as PyLate makes them: prompts, prefix tokens, truncation, query expansion and the skiplist.

A query becomes `[CLS] [Q] prompt text… [SEP]` and, with query expansion, is filled up with `[MASK]` to `query_length`;
a document becomes `[CLS] [D] prompt text… [SEP]`, cut to `document_length`. No model is needed here, so processes that
load data tokenise with a pickled copy.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import NoneType
from typing import Any, Literal, TypedDict

import torch
from tokenizers import Tokenizer
from torch import Tensor

from colbertz.errors import UserError, check_integer, check_type
from colbertz.models.library_errors import library_errors
from colbertz.ragged import Ragged

Side = Literal["query", "document"]

# Tokens of the longest text that may be read; stands for "no limit" in files, too.
LONGEST = 10**9
# Tokens up to which queries may be filled. Every query gets that long, so a mistyped number would exhaust the memory.
_LONGEST_EXPANSION = 32_768


@dataclass(frozen=True)
class ColBERTSettings:
    """What a checkpoint says about turning texts into tokens; the defaults are PyLate's.

    Attributes:
        query_prefix, document_prefix: the token put after `[CLS]`; "" for none.
        query_length, document_length: maximum number of tokens of a text, special tokens and prefix included.
        do_query_expansion: fill queries up to `query_length` with `[MASK]` (Khattab & Zaharia 2020, section 3.2).
        attend_to_expansion_tokens: whether the other tokens attend to the added ones.
        skiplist_words: tokens whose embeddings are dropped from documents.
        prompts: plain text put before each input, by name; "query" and "document" are used unless the caller names
            another.
        default_prompt_name: the prompt that is used if there is none for the side.
        do_lower_case: lower-case texts before the tokenizer sees them.
        do_strip: remove white space from both ends of prompt and text; PyLate does, sentence-transformers 6 does not.
    """

    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_length: int = 32
    document_length: int = 180
    do_query_expansion: bool = True
    attend_to_expansion_tokens: bool = False
    skiplist_words: tuple[str, ...] = tuple(string.punctuation)
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    do_lower_case: bool = False
    do_strip: bool = True

    def __post_init__(self) -> None:
        try:
            self._check()
        except TypeError as error:  # the values may come from a file, and then no caller's code is wrong
            raise UserError(str(error)) from None
        object.__setattr__(self, "skiplist_words", tuple(self.skiplist_words))

    def _check(self) -> None:
        words, prompts = self.skiplist_words, self.prompts
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise UserError(f"skiplist_words must be a list of strings, got {words!r}")
        if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
            raise UserError(f"prompts must map names to texts, got {prompts!r}")
        for name in ("do_query_expansion", "attend_to_expansion_tokens", "do_lower_case", "do_strip"):
            check_type(name, getattr(self, name), bool, "true or false")
        check_type("default_prompt_name", self.default_prompt_name, (str, NoneType), "a string or None")
        for side in ("query", "document"):
            length, prefix = getattr(self, f"{side}_length"), getattr(self, f"{side}_prefix")
            check_integer(f"{side}_length", length, 4)
            if length > LONGEST:
                raise UserError(f"{side}_length must be at most {LONGEST}, got {length}")
            if not isinstance(prefix, str):
                raise UserError(f'{side}_prefix must be a string ("" for none), got {prefix!r}')
        if self.do_query_expansion and self.query_length > _LONGEST_EXPANSION:
            raise UserError(
                f"query_length is {self.query_length}, and every query would be filled up to it; "
                f"with query expansion it must be at most {_LONGEST_EXPANSION}"
            )

    def overridden(self, overrides: Mapping[str, Any]) -> "ColBERTSettings":
        """The settings with some of them replaced.

        Raises:
            TypeError: if there is no such setting.
            UserError: if a value cannot be.
        """
        names = [field.name for field in fields(self)]
        for name in overrides:
            if name not in names:
                raise TypeError(f"there is no setting {name!r}; there are embedding_dim, seed, {', '.join(names)}")
        return replace(self, **overrides)

    def cut_to(self, longest: int | None) -> "ColBERTSettings":
        """The settings with lengths of at most `longest` tokens; None for no limit."""
        if longest is None:
            return self
        lengths = {"query_length": self.query_length, "document_length": self.document_length}
        return self.overridden({name: min(length, longest) for name, length in lengths.items()})

    def check_lengths(self, max_positions: int | None) -> None:
        """Raise UserError if a text could be longer than the encoder's positions; None for no limit."""
        sides: tuple[Side, ...] = ("query", "document")
        for side in sides:
            if max_positions is not None and self.length(side) > max_positions:
                raise UserError(
                    f"{side}_length is {self.length(side)}, this encoder has positions for {max_positions} tokens"
                )

    def length(self, side: Side) -> int:
        """Tokens that a text of this side may have, special tokens and prefix included."""
        return self.query_length if side == "query" else self.document_length

    def prompt(self, side: Side, name: str | None = None) -> str:
        """The text to put before inputs.

        Raises:
            UserError: if `name` is not among the prompts.
        """
        check_type("prompt_name", name, (str, NoneType), "a string or None")
        if name is None:
            name = side if side in self.prompts else self.default_prompt_name
        if name is not None and name not in self.prompts:
            raise UserError(f"there is no prompt {name!r}; this model has {sorted(self.prompts) or 'none'}")
        return "" if name is None else self.prompts[name] or ""


class SettingOverrides(TypedDict, total=False):
    """Fields of `ColBERTSettings` as keyword arguments, each optional."""

    query_prefix: str
    document_prefix: str
    query_length: int
    document_length: int
    do_query_expansion: bool
    attend_to_expansion_tokens: bool
    skiplist_words: Sequence[str]
    prompts: dict[str, str]
    default_prompt_name: str | None
    do_lower_case: bool
    do_strip: bool


@dataclass(frozen=True)
class Tokens:
    """A batch of tokenised texts.

    Attributes:
        ids: the token ids of each text, int64.
        attended: (num_tokens,) bool, false for expansion tokens that no token attends to; None if all are.
        scored: (num_tokens,) bool, false for tokens whose embedding is dropped; None if all are kept.
        num_truncated: how many of the texts were longer than their side allows.
        seeds: (num_texts,) int64 on the CPU, the seed of each text's dropout; None to draw them in the encoder.
    """

    ids: Ragged
    attended: Tensor | None = None
    scored: Tensor | None = None
    num_truncated: int = 0
    seeds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> "Tokens":
        """A part of the texts. `num_truncated` belongs to the whole batch and is 0 in the part."""
        rows = self.ids.with_values(torch.arange(len(self.ids.values), device=self.ids.device))[index]
        attended, scored = (None if flags is None else flags[rows.values] for flags in (self.attended, self.scored))
        seeds = None if self.seeds is None else self.seeds[index]
        return Tokens(rows.with_values(self.ids.values[rows.values]), attended, scored, seeds=seeds)

    @classmethod
    def cat(cls, batches: Sequence["Tokens"]) -> "Tokens":
        """The texts of several batches of one side, in order."""

        def joined(name: str) -> Tensor | None:
            flags = [getattr(batch, name) for batch in batches]
            if all(part is None for part in flags):
                return None
            sizes = [len(batch.ids.values) for batch in batches]
            return torch.cat([torch.ones(n, dtype=torch.bool) if f is None else f for f, n in zip(flags, sizes)])

        ids = Ragged.cat(batch.ids for batch in batches)
        return cls(ids, joined("attended"), joined("scored"), sum(batch.num_truncated for batch in batches))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Tokens":
        """The batch on another device."""
        return self._map(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Tokens":
        """For `DataLoader(pin_memory=True)`, which calls this on every batch."""
        return self._map(lambda part: part.pin_memory())

    def _map(self, move: Callable[[Any], Any]) -> "Tokens":
        attended, scored = (None if flags is None else move(flags) for flags in (self.attended, self.scored))
        return Tokens(move(self.ids), attended, scored, self.num_truncated, self.seeds)


class ColBERTTokenizer:
    """A tokenizer together with the settings that say how a query and a document are built from its tokens.

    Attributes:
        backend: the `tokenizers.Tokenizer`, without truncation or padding, prefix tokens included.
        settings: lengths, prefixes, prompts, skiplist.
        special_tokens: role ("mask_token", …) to token, as in `special_tokens_map.json`.
        expansion_id: the token that fills queries up; None if the tokenizer has none that could.
        skiplist: int64, the tokens whose embeddings are dropped from documents, in ascending order.
    """

    def __init__(self, backend: Tokenizer, settings: ColBERTSettings, special_tokens: dict[str, str]) -> None:
        """Copy `backend` and add missing prefix tokens to the copy.

        Raises:
            UserError: if there is no token to fill queries with.
        """
        check_type("backend", backend, Tokenizer, "a tokenizers.Tokenizer")
        check_type("settings", settings, ColBERTSettings, "ColBERTSettings")
        with library_errors("the tokenizer cannot be used"):
            self.backend = Tokenizer.from_str(backend.to_str())
            self.backend.no_padding()
            self.backend.no_truncation()
            self.backend.add_tokens([p for p in (settings.query_prefix, settings.document_prefix) if p])
        self.settings = settings
        self.special_tokens = special_tokens
        filler = next(
            (special_tokens[k] for k in ("mask_token", "eos_token", "pad_token") if k in special_tokens), None
        )
        self.expansion_id = None if filler is None else self.backend.token_to_id(filler)
        if settings.do_query_expansion and self.expansion_id is None:
            raise UserError(
                "query expansion needs a mask, eos or pad token, and tokenizer_config.json names none; "
                "name one there or set do_query_expansion to false"
            )
        unknown = self.backend.token_to_id(special_tokens.get("unk_token", ""))
        ids = {self.backend.token_to_id(word) for word in settings.skiplist_words}
        # A word that is no token stands for [UNK], as in PyLate, so that documents have as many embeddings as there.
        self.skiplist = torch.tensor(sorted({unknown if i is None else i for i in ids} - {None}), dtype=torch.int64)
        self._check_around_texts()

    @property
    def vocab_size(self) -> int:
        """Rows that the embedding matrix needs, added tokens included."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def _check_around_texts(self) -> None:
        """Refuse a tokenizer that puts too many tokens around texts, or some that are not in its vocabulary."""
        with library_errors("the tokenizer cannot be used"):
            around = self.backend.encode("").ids
        if any(token >= self.vocab_size for token in around):
            raise UserError(f"the tokenizer puts the ids {around} around texts, but has {self.vocab_size} tokens")
        shortest = min(self.settings.query_length, self.settings.document_length)
        if len(around) >= shortest - 1:
            raise UserError(
                f"the tokenizer puts {len(around)} tokens around a text, which leaves none of {shortest} for the text; "
                "give a larger query_length and document_length"
            )

    def prefix_id(self, side: Side) -> int | None:
        """The token put after the first one of each text; None for none."""
        prefix = self.settings.query_prefix if side == "query" else self.settings.document_prefix
        return self.backend.token_to_id(prefix) if prefix else None

    def tokenise(self, texts: Sequence[str], side: Side, prompt: str | None = None) -> Tokens:
        """`queries` or `documents`, whichever the side is."""
        return self.queries(texts, prompt) if side == "query" else self.documents(texts, prompt)

    def queries(self, texts: Sequence[str], prompt: str | None = None) -> Tokens:
        """Tokenise queries.

        Args:
            texts: the queries.
            prompt: text to put before each; None for the configured one.

        Raises:
            TypeError: if one of `texts` is not a string.
        """
        rows, num_truncated = self._encode(texts, "query", prompt)
        settings = self.settings
        if not settings.do_query_expansion or self.expansion_id is None:
            return Tokens(_ragged(rows), num_truncated=num_truncated)
        fill = [settings.query_length - len(row) for row in rows]
        ids = _ragged([row + [self.expansion_id] * n for row, n in zip(rows, fill)])
        attended = None
        if not settings.attend_to_expansion_tokens and any(fill):
            flags = [flag for row, n in zip(rows, fill) for flag in [True] * len(row) + [False] * n]
            attended = torch.tensor(flags, dtype=torch.bool)
        return Tokens(ids, attended=attended, num_truncated=num_truncated)

    def documents(self, texts: Sequence[str], prompt: str | None = None) -> Tokens:
        """Tokenise documents; arguments and errors as for `queries`."""
        rows, num_truncated = self._encode(texts, "document", prompt)
        ids = _ragged(rows)
        scored = ~torch.isin(ids.values, self.skiplist) if len(self.skiplist) else None
        return Tokens(ids, scored=scored, num_truncated=num_truncated)

    def tokens_of_every_document(self, prompt: str | None = None) -> tuple[int, int]:
        """How many scored tokens are the same in all documents: at the start and at the end.

        [CLS], the prefix and the prompt at the start, [SEP] at the end, as far as the model has them.

        Args:
            prompt: text put before each document; None for the configured one.
        """
        # Two texts of one token each, which differ.
        tokens = self.documents(["a", "9"], prompt)
        if tokens.scored is not None:
            tokens = Tokens(tokens.ids.select(tokens.scored))
        first, second = (text.tolist() for text in tokens.ids)
        shorter = min(len(first), len(second))
        at_start = next((i for i in range(shorter) if first[i] != second[i]), shorter)
        at_end = next((i for i in range(shorter - at_start) if first[-1 - i] != second[-1 - i]), shorter - at_start)
        return at_start, at_end

    def _encode(self, texts: Sequence[str], side: Side, prompt: str | None) -> tuple[list[list[int]], int]:
        """The token ids of each text, with prompt and prefix, and how many texts were cut."""
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts must be strings, text {position} is {type(text).__name__}: {text!r:.80}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                surrogate = text[error.start]
                raise UserError(
                    f"text {position} has {surrogate!r}, half a character; decode it from its bytes again"
                ) from None
        check_type("prompt", prompt, (str, NoneType), "a string or None")
        prompt = self.settings.prompt(side) if prompt is None else prompt
        inputs = [self.input_of(prompt + text) for text in texts]
        prefix = self.prefix_id(side)
        max_length = self.settings.length(side) - (prefix is not None)
        rows, num_truncated = [], 0
        with library_errors("the tokenizer failed on these texts; its tokenizer.json asks for something impossible"):
            encodings = self.backend.encode_batch_fast(inputs)
        for encoding in encodings:
            row = encoding.ids
            if len(row) > max_length:
                # Cut here, not by the library, which would need a copy of the tokenizer for each side.
                num_truncated += 1
                row = cut(row, encoding.special_tokens_mask, max_length)
            rows.append(row if prefix is None else [*row[:1], prefix, *row[1:]])
        return rows, num_truncated

    def input_of(self, text: str) -> str:
        """What the backend gets for a text with its prompt in front."""
        # The prompt is added before white space is removed, as in PyLate.
        text = text.strip() if self.settings.do_strip else text
        return text.lower() if self.settings.do_lower_case else text

    def __getstate__(self) -> dict[str, Any]:
        return {"backend": self.backend, "settings": self.settings, "special_tokens": self.special_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def cut(row: list[int], special: list[int], max_length: int) -> list[int]:
    """The first `max_length` tokens, but with those at the end that the tokenizer put there, such as [SEP]."""
    num_last = next((i for i, flag in enumerate(reversed(special)) if not flag), len(row))
    return row[: max_length - num_last] + row[len(row) - num_last :]


def _ragged(rows: list[list[int]]) -> Ragged:
    flat = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return Ragged.from_lengths(flat, [len(row) for row in rows])
