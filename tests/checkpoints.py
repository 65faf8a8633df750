"""Random checkpoints in the layouts that published ColBERT models have, small enough to build in a moment.

Only our own dependencies are used, so that the same directory can be built in every environment and read there by
colbertz, by transformers, by PyLate and by sentence-transformers. File names, keys and settings follow the published
directories (docs/checkpoints.md); sizes do not. Weights are larger than those of an untrained model, in which attention
has so little effect that a wrong mask would stay within the tolerance.
"""

import json
import math
import string
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from texts import ORDINARY
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor

JSON = dict[str, Any]
Weights = dict[str, Tensor]
IDENTITY = "torch.nn.modules.linear.Identity"
SPECIAL = {
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}

# -- tokenizers ------------------------------------------------------------------------------------------------------


def _cls_sep(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    special = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    return processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=special)


@cache
def _byte_level_json(prefixes: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(ORDINARY, trainer)
    # As in ModernBERT: runs of spaces are added tokens, and [MASK] includes a space before it.
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])
    for name in ("[UNK]", "[CLS]", "[SEP]", "[PAD]"):
        tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True)])
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False, special=True)])
    tokenizer.add_tokens([AddedToken(f"[unused{n}]", normalized=True) for n in range(3)])
    tokenizer.add_tokens([AddedToken(prefix, normalized=True) for prefix in prefixes])
    tokenizer.post_processor = _cls_sep(tokenizer)
    return tokenizer.to_str()


def modernbert_tokenizer(*prefixes: str) -> Tokenizer:
    """Byte-level BPE with ModernBERT's special tokens; `prefixes` ("[Q] ", "[D] ") as PyLate adds them."""
    return Tokenizer.from_str(_byte_level_json(prefixes))


@cache
def _word_piece_json() -> str:
    special = ["[PAD]", *(f"[unused{n}]" for n in range(4)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = sorted({c for text in ORDINARY for c in text.lower() if not c.isspace()})
    alphabet = sorted({*string.punctuation, *string.ascii_lowercase, *string.digits, *characters})
    words = sorted({word for text in ORDINARY for word in text.lower().split() if word.isascii() and word.isalpha()})
    pieces = [f"##{c}" for c in alphabet] + [f"##{end}" for end in ("ing", "tion", "er", "ed", "es", "al", "en")]
    vocabulary = list(dict.fromkeys([*special, *alphabet, *pieces, *words]))
    model = models.WordPiece(
        {token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]", max_input_chars_per_word=100
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    added = [AddedToken(name, normalized=False, special=True) for name in SPECIAL.values()]
    tokenizer.add_special_tokens(added)
    tokenizer.post_processor = _cls_sep(tokenizer)
    return tokenizer.to_str()


def bert_tokenizer() -> Tokenizer:
    """Uncased WordPiece with BERT's special tokens and [unused0], [unused1] … in the vocabulary."""
    return Tokenizer.from_str(_word_piece_json())


# -- encoders --------------------------------------------------------------------------------------------------------


def modernbert_config(**overrides: Any) -> JSON:
    """config.json of `ModernBertModel` with the keys of the published files (transformers 4)."""
    tokenizer = modernbert_tokenizer()
    config: JSON = {
        "architectures": ["ModernBertModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id("[CLS]"),
        "classifier_activation": "gelu",
        "classifier_pooling": "mean",
        "cls_token_id": tokenizer.token_to_id("[CLS]"),
        "decoder_bias": True,
        "embedding_dropout": 0.0,
        "eos_token_id": tokenizer.token_to_id("[SEP]"),
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-05,
        "local_attention": 128,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-05,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
        "position_embedding_type": "absolute",
        "sep_token_id": tokenizer.token_to_id("[SEP]"),
        "torch_dtype": "float32",
        "transformers_version": "4.48.2",
        "vocab_size": tokenizer.get_vocab_size(),
    }
    return config | overrides


def bert_config(**overrides: Any) -> JSON:
    """config.json of `BertModel`."""
    config: JSON = {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": bert_tokenizer().get_vocab_size(),
    }
    return config | overrides


class _Random:
    """Seeded random weights by name; they depend on the order of the calls."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: Weights = {}

    def normal(self, *shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=self.generator) * std

    def linear(self, name: str, out_features: int, in_features: int, bias: bool) -> None:
        self.weights[f"{name}.weight"] = self.normal(out_features, in_features, std=1.5 / math.sqrt(in_features))
        if bias:
            self.weights[f"{name}.bias"] = self.normal(out_features, std=0.2)

    def norm(self, name: str, size: int, bias: bool) -> None:
        self.weights[f"{name}.weight"] = 1 + self.normal(size, std=0.2)
        if bias:
            self.weights[f"{name}.bias"] = self.normal(size, std=0.2)


def modernbert_weights(config: JSON, seed: int = 0) -> Weights:
    """Random weights under the names that `ModernBertModel` saves."""
    random, hidden, wide = _Random(seed), config["hidden_size"], config["intermediate_size"]
    random.weights["embeddings.tok_embeddings.weight"] = random.normal(config["vocab_size"], hidden, std=1.0)
    random.norm("embeddings.norm", hidden, config["norm_bias"])
    for i in range(config["num_hidden_layers"]):
        if i > 0:
            random.norm(f"layers.{i}.attn_norm", hidden, config["norm_bias"])
        random.linear(f"layers.{i}.attn.Wqkv", 3 * hidden, hidden, config["attention_bias"])
        random.linear(f"layers.{i}.attn.Wo", hidden, hidden, config["attention_bias"])
        random.norm(f"layers.{i}.mlp_norm", hidden, config["norm_bias"])
        random.linear(f"layers.{i}.mlp.Wi", 2 * wide, hidden, config["mlp_bias"])
        random.linear(f"layers.{i}.mlp.Wo", hidden, wide, config["mlp_bias"])
    random.norm("final_norm", hidden, config["norm_bias"])
    return random.weights


def bert_weights(config: JSON, seed: int = 0) -> Weights:
    """Random weights under the names that `BertModel` saves, the unused pooler included."""
    random, hidden, wide = _Random(seed), config["hidden_size"], config["intermediate_size"]
    for table, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        random.weights[f"embeddings.{table}_embeddings.weight"] = random.normal(config[rows], hidden, std=0.5)
    random.norm("embeddings.LayerNorm", hidden, True)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            random.linear(f"{layer}.attention.self.{part}", hidden, hidden, True)
        random.linear(f"{layer}.attention.output.dense", hidden, hidden, True)
        random.norm(f"{layer}.attention.output.LayerNorm", hidden, True)
        random.linear(f"{layer}.intermediate.dense", wide, hidden, True)
        random.linear(f"{layer}.output.dense", hidden, wide, True)
        random.norm(f"{layer}.output.LayerNorm", hidden, True)
    random.linear("pooler.dense", hidden, hidden, True)
    return random.weights


def random_weights(config: JSON, seed: int = 0) -> Weights:
    return (bert_weights if config["model_type"] == "bert" else modernbert_weights)(config, seed)


# -- files -----------------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def write_weights(path: Path, weights: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata={"format": "pt"})


def write_tokenizer(directory: Path, tokenizer: Tokenizer, model_type: str, max_length: int) -> None:
    """tokenizer.json and its two companions, as AutoTokenizer reads them; vocab.txt for BERT."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config: JSON = {**SPECIAL, "clean_up_tokenization_spaces": True, "model_max_length": max_length}
    if model_type == "bert":
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        (directory / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n", "utf-8")
        config |= {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
        config |= {"tokenizer_class": "BertTokenizer"}
    else:
        config |= {"model_input_names": ["input_ids", "attention_mask"], "tokenizer_class": "PreTrainedTokenizerFast"}
    config["added_tokens_decoder"] = {
        str(i): {name: getattr(token, name) for name in ("content", "lstrip", "normalized", "rstrip", "single_word")}
        | {"special": token.special}
        for i, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    write_json(directory / "tokenizer_config.json", config)
    write_json(directory / "special_tokens_map.json", SPECIAL)


def write_encoder(directory: Path, config: JSON, tokenizer: Tokenizer, seed: int = 0) -> Path:
    """A bare encoder: config.json, model.safetensors and the tokenizer's files."""
    write_json(directory / "config.json", config)
    write_weights(directory / "model.safetensors", random_weights(config, seed))
    write_tokenizer(directory, tokenizer, config["model_type"], config["max_position_embeddings"])
    return directory


def write_dense(directory: Path, in_features: int, out_features: int, seed: int, **settings: Any) -> None:
    """One `N_Dense` folder; `settings` are further keys of its config.json."""
    config = {"in_features": in_features, "out_features": out_features, "bias": False, "activation_function": IDENTITY}
    config |= settings
    random = _Random(seed)
    random.linear("linear", out_features, in_features, config["bias"])
    if config.get("use_residual") and in_features != out_features:
        random.linear("residual", out_features, in_features, False)
    write_json(directory / "config.json", config)
    write_weights(directory / "model.safetensors", random.weights)


def write_pylate(directory: Path, config: JSON, denses: list[JSON], settings: JSON, seed: int = 0) -> Path:
    """The PyLate layout around a ModernBERT whose tokenizer already has both prefixes, as PyLate saves it."""
    tokenizer = modernbert_tokenizer("[Q] ", "[D] ")
    config = config | {"vocab_size": tokenizer.get_vocab_size()}
    # The files PyLate saves keep the truncation and padding of the last batch; readers must not apply them.
    tokenizer.enable_truncation(max_length=17)
    tokenizer.enable_padding(length=17, pad_id=tokenizer.token_to_id("[MASK]"), pad_token="[MASK]")
    write_encoder(directory, config, tokenizer, seed)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, dense in enumerate(denses, 1):
        write_dense(directory / f"{i}_Dense", **dense, seed=seed + i)
        modules.append({"idx": i, "name": str(i), "path": f"{i}_Dense", "type": "pylate.models.Dense.Dense"})
    write_json(directory / "modules.json", modules)
    longest = settings["document_length"] - 1
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    defaults: JSON = {
        "__version__": {"sentence_transformers": "4.0.2", "transformers": "4.48.2", "pytorch": "2.5.1"},
        "model_type": "ColBERT",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": 32,
        "document_length": 180,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list(string.punctuation),
        "do_query_expansion": True,
    }
    write_json(directory / "config_sentence_transformers.json", defaults | settings)
    return directory


def write_stanford(directory: Path, config: JSON, dim: int, metadata: JSON, seed: int = 0) -> Path:
    """Stanford's layout: `HF_ColBERT` with the projection beside the encoder, and artifact.metadata."""
    config = config | {"architectures": ["HF_ColBERT"]}
    write_encoder(directory, config, bert_tokenizer(), seed)
    weights = {f"bert.{name}": tensor for name, tensor in bert_weights(config, seed).items()}
    weights["bert.embeddings.position_ids"] = torch.arange(config["max_position_embeddings"])[None]
    random = _Random(seed + 1)
    random.linear("linear", dim, config["hidden_size"], False)
    write_weights(directory / "model.safetensors", weights | random.weights)
    defaults: JSON = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_token": "[Q]",
        "doc_token": "[D]",
        "ncells": None,
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
        "similarity": "cosine",
        "dim": dim,
        "query_maxlen": 32,
        "doc_maxlen": 180,
        "nbits": 1,
        "checkpoint": "bert-base-uncased",
    }
    write_json(directory / "artifact.metadata", defaults | metadata)
    return directory
