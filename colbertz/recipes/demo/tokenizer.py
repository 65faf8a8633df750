"""A byte-level BPE tokenizer for code, trained on the demo's corpus in a few seconds.

A nano model is good at code search only if the same word is the same token everywhere: as a word of a question, inside
`snake_case` and inside `camelCase`. So identifiers are split before BPE, case and the space before a word make no
difference, and the punctuation that code is full of gets no tokens. All of this is in the tokenizer.json: loading the
model needs nothing from this file.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Places between the words of an identifier, as in parseDate, HTTPServer, utf8, 3d.
_WORD_BOUNDARY = Regex("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
# Blanks and punctuation that separate words and are no tokens.
_SEPARATORS = Regex(r"[\s_(),:.;'\"`{}\[\]#\\=]+")


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """Train a tokenizer; the same texts in the same order give the same tokenizer.

    Args:
        texts: what to train on.
        vocab_size: largest number of tokens, special tokens included.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(_WORD_BOUNDARY, " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_SEPARATORS, "removed"),
            pre_tokenizers.Split(Regex(r"[^\w]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer
