"""Reading a tokenizer's files, with the meaning that transformers gives them.

A tokenizer is spread over up to five files: `tokenizer.json` or the older `vocab.txt`; `tokenizer_config.json`, which
names special tokens, adds tokens, and for a BERT tokenizer decides on lower case, accents and Chinese characters; and
the older `special_tokens_map.json` and `added_tokens.json`. Where they contradict each other, the same one counts as in
transformers' `AutoTokenizer`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from colbertz.models.checkpoint.json_files import check_file, is_there, read_json, read_json_if_there
from colbertz.models.checkpoint.layouts import FILES, CheckpointError
from colbertz.models.checkpoint.tokenizer_limits import MOST_TOKENIZER_BYTES, check_tokenizer
from colbertz.models.library_errors import library_errors

# Names of one class of transformers: it reads vocab.txt, and its settings count more than those in tokenizer.json.
_BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
# Names of transformers' class for any tokenizer.json.
_GENERIC_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")
# The special tokens that a BERT tokenizer has by default.
_BERT_ROLES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
# The roles that transformers knows, in the order in which it adds their tokens to the vocabulary.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What a JSON object says about a token beside its text.
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Digits of an id.
_MOST_DIGITS = 10
# Settings of tokenizer_config.json of which only one value is supported, with that value.
_SUPPORTED = {"truncation_side": "right", "split_special_tokens": False}


@dataclass(frozen=True)
class _Declared:
    """What the files beside the vocabulary say.

    Attributes:
        origin: the file that gives added tokens their ids, for messages.
        ids: the id that it gives each.
        added: tokens to add to the vocabulary, in ascending order of these ids.
        roles: role ("mask_token", …) to token; a role may be null.
        extra: special tokens without a role.
    """

    origin: Path
    ids: dict[str, int]
    added: list[AddedToken]
    roles: dict[str, Any]
    extra: list[Any]


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json.

    Raises:
        CheckpointError: if it cannot be read, or an added token cannot have the id that the file gives it.
    """
    content = read_json(path, most_bytes=MOST_TOKENIZER_BYTES)
    check_tokenizer(path, content)
    # The library numbers added tokens in the order of the file and ignores the ids that stand there.
    added = sorted(content.get("added_tokens") or [], key=lambda token: token["id"])
    with library_errors(f"{path} cannot be read by the tokenizers library", CheckpointError):
        tokenizer = Tokenizer.from_str(json.dumps(content | {"added_tokens": added}))
    ids = {token["content"]: token["id"] for token in added}
    _check_ids(path, tokenizer, ids)
    return tokenizer


def read_tokenizer_files(directory: Path, encoder: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer of a directory, and its special tokens by their roles.

    Args:
        directory: of the encoder.
        encoder: the content of its config.json.

    Raises:
        CheckpointError: if there is none, a file is damaged, or a setting is not supported.
    """
    path = directory / FILES.tokenizer_config
    config = read_json_if_there(path)
    for key, supported in _SUPPORTED.items():
        if config.get(key, supported) != supported:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}, only {supported!r} is supported")
    is_bert = _is_bert(directory, config, encoder)
    tokenizer = _base(directory, config, is_bert)
    old = read_json_if_there(directory / FILES.special_tokens)
    new = "added_tokens_decoder" in config
    declared = _declared(directory, config) if new else _declared_before(directory, config, old)
    roles = {**(_BERT_ROLES if is_bert else {}), **declared.roles}
    specials = _add_tokens(tokenizer, declared, roles)
    _check_ids(declared.origin, tokenizer, declared.ids)
    if is_bert:
        _surround(tokenizer, specials)
    return tokenizer, {role: token.content for role, token in specials.items()}


# -- vocabulary --------------------------------------------------------------------------------------------------------


def _is_bert(directory: Path, config: Mapping[str, Any], encoder: Mapping[str, Any]) -> bool:
    """Whether transformers would make a `BertTokenizer`, whose settings count more than those in tokenizer.json."""
    has_json = is_there(directory / FILES.tokenizer)
    if not has_json and not is_there(directory / FILES.vocabulary):
        raise CheckpointError(
            f"{directory} has no {FILES.tokenizer} (nor a {FILES.vocabulary}); add the tokenizer's files"
        )
    default = "BertTokenizer" if encoder.get("model_type") == "bert" else "TokenizersBackend"
    name = str(config.get("tokenizer_class") or encoder.get("tokenizer_class") or default).removesuffix("Fast")
    if name == "BertJapaneseTokenizer" or not (has_json or name in (*_BERT_CLASSES, *_GENERIC_CLASSES)):
        raise CheckpointError(
            f"{directory / FILES.tokenizer_config}: tokenizer_class {name!r} is not supported without a "
            f"{FILES.tokenizer} that says the same; save the tokenizer as one"
        )
    return not has_json or (name in _BERT_CLASSES and encoder.get("model_type") == "bert")


def _base(directory: Path, config: Mapping[str, Any], is_bert: bool) -> Tokenizer:
    """The tokenizer before tokens are added to it."""
    path = directory / FILES.tokenizer
    if is_there(path):
        tokenizer = read_tokenizer(path)
        if not is_bert:
            return tokenizer
        normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
        if not isinstance(normalizer, normalizers.BertNormalizer | None) or not isinstance(
            pre_tokenizer, pre_tokenizers.BertPreTokenizer | None
        ):
            raise CheckpointError(
                f"{path} does not split words as a BertTokenizer does, which {FILES.tokenizer_config} says it is; "
                "set tokenizer_class to PreTrainedTokenizerFast there if tokenizer.json is right"
            )
    else:
        path = directory / FILES.vocabulary
        check_file(path, most_bytes=MOST_TOKENIZER_BYTES)
        with library_errors(f"{path} cannot be read by the tokenizers library", CheckpointError):
            vocabulary = models.WordPiece.read_file(str(path))
            tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_BERT_ROLES["unk_token"]))
        tokenizer.decoder = decoders.WordPiece()
    clean_text = tokenizer.normalizer.clean_text if tokenizer.normalizer else True
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=clean_text, **_normalisation(directory, config))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _normalisation(directory: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What tokenizer_config.json says, or BertTokenizer does by default, about lower case, accents and Chinese."""
    values = {
        "lowercase": config.get("do_lower_case", True),
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    for key, value in values.items():
        if not isinstance(value, bool) and not (key == "strip_accents" and value is None):
            raise CheckpointError(
                f"{directory / FILES.tokenizer_config}: do_lower_case, strip_accents and tokenize_chinese_chars must "
                f"be true or false, found {value!r}"
            )
    return values


# -- added tokens ------------------------------------------------------------------------------------------------------


def _declared(directory: Path, config: Mapping[str, Any]) -> _Declared:
    """What tokenizer_config.json says; transformers since 4.34 writes everything there."""
    path, decoder = directory / FILES.tokenizer_config, config["added_tokens_decoder"]
    if not isinstance(decoder, dict) or not all(i.isdecimal() and len(i) <= _MOST_DIGITS for i in decoder):
        raise CheckpointError(f"{path}: added_tokens_decoder must map ids to tokens, found {decoder!r:.80}")
    added = {int(i): _token(path, "added_tokens_decoder", token) for i, token in decoder.items()}
    roles, extra = _roles(path, config)
    ids = {token.content: i for i, token in added.items()}
    return _Declared(path, ids, [added[i] for i in sorted(added)], roles, extra)


def _declared_before(directory: Path, config: Mapping[str, Any], old: Mapping[str, Any]) -> _Declared:
    """What older files say: special_tokens_map.json (`old`), which counts more than `config`, and added_tokens.json."""
    path = directory / FILES.added_tokens
    roles, extra = _roles(directory / FILES.tokenizer_config, config)
    old_roles, old_extra = _roles(directory / FILES.special_tokens, old)
    roles = {**roles, **old_roles}
    # transformers 5 does not look at `additional_special_tokens` of the old file here.
    with_flags = extra if "extra_special_tokens" not in old else extra or old_extra
    special = {_text(token) for token in (*roles.values(), *with_flags)}
    extra = extra or old_extra
    ids = read_json_if_there(path)
    if not all(isinstance(i, int) for i in ids.values()):
        raise CheckpointError(f"{path} must map tokens to their ids, found {ids!r:.80}")
    added = [AddedToken(text, normalized=text not in special, special=text in special) for text in ids]
    return _Declared(path, ids, sorted(added, key=lambda token: ids[token.content]), roles, extra)


def _roles(path: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The special tokens of a file: those with a role, and those without."""
    roles = {k: v for k, v in config.items() if k.endswith("_token") and isinstance(v, str | dict | None)}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if not isinstance(extra, dict | list):
        raise CheckpointError(f"{path}: extra_special_tokens must list tokens, found {extra!r:.80}")
    unnamed = extra.items() if isinstance(extra, dict) else [("extra_special_tokens", token) for token in extra]
    for role, token in (*roles.items(), *unnamed):
        if token is not None:
            _token(path, role, token)
    return ({**roles, **extra}, []) if isinstance(extra, dict) else (roles, extra)


def _add_tokens(tokenizer: Tokenizer, declared: _Declared, roles: Mapping[str, Any]) -> dict[str, AddedToken]:
    """Add what the files declare to the vocabulary, in the order of transformers; returns the tokens of the roles."""
    before = list(tokenizer.get_added_tokens_decoder().values())
    # A token that is in tokenizer.json too is as that file has it, unless tokenizer_config.json describes it.
    described = declared.origin.name == FILES.tokenizer_config
    names = {token.content for token in before}
    added = [token for token in declared.added if described or token.content not in names]
    known = {token.content: token for token in ([*before, *added] if not described else added)}
    config = declared.origin.parent / FILES.tokenizer_config
    specials: dict[str, AddedToken] = {}
    for role in sorted(roles, key=lambda role: _ROLES.index(role) if role in _ROLES else len(_ROLES)):
        if roles[role] is not None:
            token = _token(config, role, roles[role], special=True)
            specials[role] = known.get(token.content, token) if role in _ROLES else token
    tokens = [token for token in added if repr(token) not in {repr(other) for other in before}]
    names |= {token.content for token in tokens}
    for token in tokens:
        token.special = token.special or token.content in {special.content for special in specials.values()}
    extra = [_token(config, "extra_special_tokens", token, special=True) for token in declared.extra]
    tokens += [token for token in (*specials.values(), *extra) if token.content not in names]
    tokenizer.add_tokens(tokens)
    return specials


def _token(path: Path, key: str, token: Any, special: bool = False) -> AddedToken:
    """A token as a JSON file has it: its text, or an object with its text and flags."""
    if isinstance(token, str):
        return AddedToken(token, special=special)
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        raise CheckpointError(f"{path}: {key} must be a token or an object with its content, found {token!r:.80}")
    flags = {flag: token[flag] for flag in _TOKEN_FLAGS if flag in token}
    if not all(isinstance(value, bool) for value in flags.values()):
        raise CheckpointError(f"{path}: the flags of token {token['content']!r} must be true or false, found {flags}")
    return AddedToken(token["content"], **{**({"special": True} if special else {}), **flags})


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _check_ids(path: Path, tokenizer: Tokenizer, ids: Mapping[str, int]) -> None:
    """Refuse tokens that the tokenizers library cannot give the ids that a file says they have."""
    for text, i in ids.items():
        if tokenizer.token_to_id(text) != i:
            raise CheckpointError(
                f"{path} gives the token {text!r} the id {i}, but behind this vocabulary it gets "
                f"{tokenizer.token_to_id(text)}; the tokenizer's files do not belong together"
            )


def _surround(tokenizer: Tokenizer, specials: Mapping[str, AddedToken]) -> None:
    """Put `[CLS]` and `[SEP]`, or what has their roles, around every text."""
    ends = [specials[role].content for role in ("cls_token", "sep_token") if role in specials]
    if len(ends) == len(("cls", "sep")):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[ends[0], "$A", ends[1]],
            pair=[ends[0], "$A", ends[1], "$B:1", f"{ends[1]}:1"],
            special_tokens=[(text, tokenizer.token_to_id(text)) for text in ends],
        )
