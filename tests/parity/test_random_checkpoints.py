"""Random valid settings of checkpoints: we read them as transformers does, to the same tokens and hidden states."""

import json
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import bert_config, modernbert_config, modernbert_tokenizer, random_weights, write_json, write_weights
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from colbertz import ColBERT
from colbertz.models.checkpoint.tokenizer_files import read_tokenizer_files

transformers = pytest.importorskip("transformers")

TOLERANCE = {"atol": 2e-4, "rtol": 1e-3}
TEXTS = [
    "Ein Über-Äpfel naïve café, ÉTÉ",
    "the quick brown fox Jumps",
    "東京タワーは赤い, tokyo 東 京",
    "[Q] what [D] is [ENT] this? [MASK] [ent]",
    "  spaces\tand\x00 control\u200b characters é (decomposed)",
    " ".join(["word"] * 60),
    "",
]
# Shrinking loads hundreds of models; a failing example is small enough to read as it is.
PROPERTY = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# -- tokenizers ------------------------------------------------------------------------------------------------------

_ROLES = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_NEW_TOKENS = ("[Q] ", "[D] ", "[ENT]", "Über")


def bert_vocabulary() -> list[str]:
    """A vocabulary in which case, accents and Chinese characters matter."""
    characters = [*string.ascii_letters, *string.digits, *string.punctuation, *"äöüÄÖÜéÉñï東京タワーは赤い"]
    specials = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*specials, *characters, *(f"##{c}" for c in characters), "the", "quick", "Über", "uber", "über", "cafe"]


def word_piece(lowercase: bool, strip_accents: bool | None, chinese: bool) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(bert_vocabulary())}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(
        [AddedToken(f"[{role[:-6].upper()}]", normalized=False, special=True) for role in _ROLES]
    )
    ends = [(text, vocabulary[text]) for text in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def maybe(values: Any) -> Any:
    """One of the values, or `...` for a key that is not there."""
    return st.one_of(st.just(...), values)


def without_missing(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not ...}


def flags(token: AddedToken) -> dict[str, Any]:
    return {key: getattr(token, key) for key in ("content", "single_word", "lstrip", "rstrip", "normalized", "special")}


@st.composite
def tokenizer_files(draw: st.DrawFn, model_type: str) -> dict[str, Any]:
    """The files of a tokenizer by name: JSON content, or text."""
    booleans = st.booleans()
    about: dict[str, Any] = {"model_max_length": 512}
    files: dict[str, Any] = {"tokenizer_config.json": about}
    if model_type == "bert":
        keys = {"do_lower_case": booleans, "strip_accents": st.sampled_from([None, True, False])}
        keys["tokenize_chinese_chars"] = booleans
        about |= without_missing({key: draw(maybe(values)) for key, values in keys.items()})
        has_json = draw(booleans)
        classes = ["BertTokenizer", "BertTokenizerFast", *(["PreTrainedTokenizerFast"] if has_json else [])]
        base = word_piece(draw(booleans), draw(st.sampled_from([None, True, False])), draw(booleans))
        if not has_json or draw(booleans):
            files["vocab.txt"] = "\n".join(bert_vocabulary()) + "\n"
    else:
        has_json, classes, base = True, ["PreTrainedTokenizerFast", "TokenizersBackend"], modernbert_tokenizer()
        about |= {role: f"[{role[:-6].upper()}]" for role in _ROLES}
    about |= without_missing({"tokenizer_class": draw(maybe(st.sampled_from(classes)))})
    new = draw(st.lists(st.sampled_from(_NEW_TOKENS), unique=True))
    known = base.get_vocab(with_added_tokens=True)
    fresh = [token for token in new if token not in known]
    ids = {token: known.get(token, len(known) + (fresh.index(token) if token in fresh else 0)) for token in new}
    in_file_order = draw(st.permutations(new))
    in_json = has_json and draw(booleans)
    if in_json:
        base.add_tokens([AddedToken(token, normalized=draw(booleans)) for token in new])
    if has_json:
        files["tokenizer.json"] = json.loads(base.to_str())
    specials = {role: f"[{role[:-6].upper()}]" for role in _ROLES}
    if draw(booleans):
        specials["mask_token"] = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False}
        specials["mask_token"] |= {"single_word": False}
    extra = draw(st.lists(st.sampled_from(["[ENT]", "[NEW]"]), unique=True))
    if draw(booleans):
        tokens = dict(base.get_added_tokens_decoder())
        if not has_json:
            tokens |= {known[text]: AddedToken(text, normalized=False, special=True) for text in specials_of(specials)}
        for token in in_file_order:
            tokens[ids[token]] = AddedToken(token, normalized=draw(booleans), special=draw(booleans))
        about["added_tokens_decoder"] = {str(i): flags(token) for i, token in tokens.items()}
        about |= {role: text for role, text in specials.items() if isinstance(text, str)}
        if extra:
            about[draw(st.sampled_from(["extra_special_tokens", "additional_special_tokens"]))] = extra
        # transformers does not read this file where added_tokens_decoder is.
        files["special_tokens_map.json"] = {"mask_token": "[PAD]"}
    else:
        if in_file_order and (in_json or draw(booleans)):
            files["added_tokens.json"] = {token: ids[token] for token in in_file_order}
        if draw(booleans):
            about["mask_token"] = "[PAD]"  # special_tokens_map.json counts more
            files["special_tokens_map.json"] = specials | ({"additional_special_tokens": extra} if extra else {})
    return files


def specials_of(specials: dict[str, Any]) -> list[str]:
    return [token if isinstance(token, str) else token["content"] for token in specials.values()]


def write(directory: Path, files: dict[str, Any], config: dict[str, Any]) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in {**files, "config.json": config}.items():
        if isinstance(content, str):
            (directory / name).write_text(content, encoding="utf-8")
        else:
            write_json(directory / name, content)
    return directory


def assert_equal_tokens(directory: Path, config: dict[str, Any]) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours, specials = read_tokenizer_files(directory, config)
    assert ours.get_vocab(with_added_tokens=True) == theirs.get_vocab()
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"], (text, ours.encode(text).tokens)
    named = {role: specials.get(role) for role in _ROLES}
    assert named == {role: theirs.special_tokens_map.get(role) for role in _ROLES}


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_tokens(model_type: str, tmp_path: Path) -> None:
    config = bert_config() if model_type == "bert" else modernbert_config()

    @PROPERTY
    @given(tokenizer_files(model_type))
    def check(files: dict[str, Any]) -> None:
        assert_equal_tokens(write(tmp_path / "model", files, config), config)

    check()


# -- configurations and weights --------------------------------------------------------------------------------------

_ACTIVATIONS = st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"])
_EPSILON = st.sampled_from([1e-12, 1e-5, 1e-2])
_THETA = st.sampled_from([10.0, 10_000.0, 160_000.0])
# Keys that transformers reads and that change nothing in the states of an encoder.
_HARMLESS: dict[str, Any] = {
    "chunk_size_feed_forward": st.sampled_from([0, 1]),
    "use_cache": st.booleans(),
    "tie_word_embeddings": st.booleans(),
    "classifier_dropout": st.just(0.3),
    "rope_theta": st.just(77.0),
    "head_dim": st.just(None),
    "pad_token_id": st.sampled_from([None, 0, 3]),
    "rope_scaling": st.just(None),
    "pruned_heads": st.just({}),
    "quantization_config": st.just(None),
    "layer_norm_eps": st.just(0.5),
    "hidden_dropout_prob": st.sampled_from([0, 0.5]),
    "attention_dropout": st.sampled_from([0, 0.5]),
}


def sizes(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.integers(1, 3))
    return {
        "num_attention_heads": heads,
        "hidden_size": heads * 2 * draw(st.integers(2, 8)),
        "intermediate_size": draw(st.integers(1, 40)),
        "num_hidden_layers": draw(st.integers(1, 4)),
    }


@st.composite
def bert_configs(draw: st.DrawFn) -> dict[str, Any]:
    harmless = {key: draw(maybe(values)) for key, values in _HARMLESS.items() if key != "layer_norm_eps"}
    own = {
        "hidden_act": draw(_ACTIVATIONS),
        "layer_norm_eps": draw(_EPSILON),
        "type_vocab_size": draw(st.integers(1, 3)),
        "position_embedding_type": draw(maybe(st.just("absolute"))),
        "is_decoder": draw(maybe(st.just(False))),
        "max_position_embeddings": draw(st.sampled_from([128, 512])),
    }
    return without_missing({**bert_config(), **harmless, **own, **sizes(draw)})


@st.composite
def modernbert_configs(draw: st.DrawFn) -> dict[str, Any]:
    shape, kinds = sizes(draw), ("full_attention", "sliding_attention")
    layer_types = st.lists(
        st.sampled_from(kinds), min_size=shape["num_hidden_layers"], max_size=shape["num_hidden_layers"]
    )
    rope = st.fixed_dictionaries(
        {}, optional={kind: st.fixed_dictionaries({}, optional={"rope_theta": _THETA}) for kind in kinds}
    )
    own = {
        "hidden_activation": draw(_ACTIVATIONS),
        "norm_eps": draw(_EPSILON),
        **{key: draw(st.booleans()) for key in ("norm_bias", "attention_bias", "mlp_bias")},
        "local_attention": draw(maybe(st.integers(2, 20))),
        "sliding_window": draw(maybe(st.integers(1, 10))),
        "global_attn_every_n_layers": draw(maybe(st.integers(1, 3))),
        "layer_types": draw(maybe(st.one_of(st.none(), layer_types))),
        "global_rope_theta": draw(maybe(_THETA)),
        "local_rope_theta": draw(maybe(_THETA)),
        "rope_parameters": draw(maybe(st.one_of(st.none(), rope))),
    }
    harmless = {key: draw(maybe(values)) for key, values in _HARMLESS.items()}
    if harmless["pad_token_id"] is ...:
        harmless["pad_token_id"] = 1  # the default is beyond this vocabulary
    return without_missing({**modernbert_config(), **harmless, **own, **shape})


@st.composite
def renamed(draw: st.DrawFn, weights: dict[str, torch.Tensor], tied: bool) -> dict[str, torch.Tensor]:
    """The weights under names that other programs give them."""
    is_bert = "embeddings.word_embeddings.weight" in weights
    prefix = draw(st.sampled_from(["", "bert." if is_bert else "model.", "0.auto_model."]))
    named = {prefix + name: tensor for name, tensor in weights.items()}
    if tied and draw(st.booleans()):
        embedding, head = ("word", "cls.predictions.decoder") if is_bert else ("tok", "decoder")
        named[f"{head}.weight"] = named.pop(f"{prefix}embeddings.{embedding}_embeddings.weight")
    if draw(st.booleans()):
        named = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in named.items()
        }
    wrapper = draw(st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]))
    inner = draw(st.sampled_from(["", "_orig_mod.", "_checkpoint_wrapped_module."]))
    return {wrapper + name.replace("layer.0.", f"layer.0.{inner}"): tensor for name, tensor in named.items()}


@torch.no_grad()
def assert_equal_states(directory: Path, theirs_directory: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(theirs_directory)
    theirs = transformers.AutoModel.from_pretrained(theirs_directory, dtype=torch.float32).eval()
    ours = ColBERT.from_pretrained(
        directory,
        "cpu",
        query_prefix="",
        document_prefix="",
        document_length=128,
        do_strip=False,
        do_query_expansion=False,
    )
    tokens = ours.tokenizer.documents(TEXTS)
    states = tokens.ids.with_values(ours.encoder(tokens.ids))
    for text, ids, state in zip(TEXTS, tokens.ids, states):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
        assert ids.tolist() == inputs["input_ids"][0].tolist()
        expected = theirs(**inputs).last_hidden_state[0]
        torch.testing.assert_close(state, expected, **TOLERANCE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "configs"), [("bert", bert_configs()), ("modernbert", modernbert_configs())])
def test_states(model_type: str, configs: st.SearchStrategy[dict[str, Any]], tmp_path: Path) -> None:
    @PROPERTY
    @given(tokenizer_files(model_type), configs, st.data())
    def check(files: dict[str, Any], config: dict[str, Any], data: st.DataObject) -> None:
        theirs = write(tmp_path / "theirs", files, config)
        config["vocab_size"] = len(transformers.AutoTokenizer.from_pretrained(theirs))
        weights = random_weights(config)
        write_json(theirs / "config.json", config)
        write_weights(theirs / "model.safetensors", weights)
        ours = write(tmp_path / "ours", files, config)
        tied = config.get("tie_word_embeddings", True)
        write_weights(ours / "model.safetensors", data.draw(renamed(weights, tied)))
        assert_equal_states(ours, theirs)

    check()
