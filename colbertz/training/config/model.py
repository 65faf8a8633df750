"""Settings of the model that a run starts from."""

from dataclasses import dataclass

from colbertz.training.config.checks import require


@dataclass(frozen=True)
class ModelConfig:
    """The model to start from: a checkpoint (`init`), or random weights and a tokenizer.

    Attributes:
        init: directory or Hugging Face hub id of a checkpoint; null for random weights of the sizes below.
        tokenizer: path of the tokenizer.json of a model with random weights; it must have the tokens [CLS], [SEP],
            [PAD], [UNK] and [MASK].
        encoder: family of an encoder with random weights: modernbert or bert. This and the next six settings apply to
            random weights only; a checkpoint has its own.
        hidden_size: width of the encoder's hidden states.
        intermediate_size: width inside the feed-forward blocks.
        num_hidden_layers: number of encoder layers.
        num_attention_heads: number of attention heads; must divide hidden_size.
        local_attention: number of tokens that a token sees in a sliding-window layer, itself included; modernbert only.
        global_attn_every_n_layers: every n-th layer, starting with the first, sees the whole text and the others a
            sliding window; modernbert only.
        embedding_dim: size of a token's embedding; null for the checkpoint's, or 128.
        query_length: maximum number of tokens of a query; null for the checkpoint's, or 32.
        document_length: maximum number of tokens of a document; null for the checkpoint's, or 180.
        do_query_expansion: fill queries up to query_length with [MASK]; null for the checkpoint's, or true.
        attend_to_expansion_tokens: whether the other tokens attend to these [MASK] tokens; null for the checkpoint's,
            or false.
        query_prefix: the token after [CLS] of a query; null for the checkpoint's, or "[Q] ".
        document_prefix: the token after [CLS] of a document; null for the checkpoint's, or "[D] ".
        query_prompt: text put before each query; null for the checkpoint's, or none.
        document_prompt: text put before each document; null for the checkpoint's, or none.
        skiplist_words: tokens dropped from documents; null for the checkpoint's, or the punctuation marks.
        allow_mismatch: a checkpoint that was trained with other prompts, lengths, prefixes or another tokenizer than
            this run's is refused, because that costs quality; true to allow all differences, or a list of the settings
            that may differ.
        gradient_checkpointing: recompute the activations of each layer in the backward pass instead of keeping them.
        compile: compile the encoder with torch.compile.
    """

    init: str | None = None
    tokenizer: str | None = None
    encoder: str = "modernbert"
    hidden_size: int = 256
    intermediate_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    embedding_dim: int | None = None
    query_length: int | None = None
    document_length: int | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    skiplist_words: list[str] | None = None
    allow_mismatch: bool | list[str] = False
    gradient_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        require(
            (self.init is None) != (self.tokenizer is None),
            "give one of model.init (a checkpoint to start from) and model.tokenizer (a tokenizer.json, for random "
            f"weights); got init={self.init!r} and tokenizer={self.tokenizer!r}",
        )
