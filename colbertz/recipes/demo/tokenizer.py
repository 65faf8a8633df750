"""A byte-level BPE tokenizer for code, trained on the demo's corpus in a few seconds.

What makes a nano model good at code search is that the same word is the same token wherever it stands: as a word of a
question, inside `snake_case` and inside `camelCase`. So identifiers are taken apart before BPE sees them, case and the
space before a word make no difference, and the punctuation that code is full of is not worth a token. All of it lives
in the tokenizer.json: whoever loads the model needs nothing from here.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# Between the words of an identifier: parseDate, HTTPServer, utf8, 3d.
_WORD_BOUNDARY = Regex("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_DROPPED = Regex(r"[\s_(),:.;'\"`{}\[\]#\\=]+")


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """Train a tokenizer; the same texts in the same order give the same one.

    Args:
        texts: what to train on.
        vocab_size: tokens at most, special tokens included.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(_WORD_BOUNDARY, " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_DROPPED, "removed"),
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
