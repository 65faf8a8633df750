"""Every setting of a training run: what it means, its default, and what it may be.

`load` reads them from a YAML file and from the command line, where a dot leads into a section:
`--config configs/demo.yaml --optim.lr 1e-3`. A key that does not exist is refused, never ignored.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import yaml

from colbertz.errors import UserError

if TYPE_CHECKING:
    import jsonargparse


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(message)


@dataclass(frozen=True)
class ModelConfig:
    """The model to start from: a checkpoint (`init`), or random weights and a tokenizer.

    Attributes:
        init: directory or Hugging Face hub id of a checkpoint; null for random weights of the sizes below.
        tokenizer: the tokenizer.json of a model with random weights; it must know [CLS] [SEP] [PAD] [UNK] [MASK].
        hidden_size: width of the encoder's residual stream. This and the next five describe random weights only.
        intermediate_size: width inside the feed-forward blocks.
        num_hidden_layers: encoder layers.
        num_attention_heads: attention heads; they divide hidden_size.
        local_attention: tokens that a token sees in sliding-window layers, itself included.
        global_attn_every_n_layers: every n-th layer, from the first on, sees the whole text.
        embedding_dim: size of a token's embedding; null for the checkpoint's, or 128.
        query_length: tokens of a query at most; null for the checkpoint's, or 32.
        document_length: tokens of a document at most; null for the checkpoint's, or 180.
        do_query_expansion: fill queries up to query_length with [MASK]; null for the checkpoint's, or true.
        attend_to_expansion_tokens: whether the other tokens attend to these; null for the checkpoint's, or false.
        query_prefix, document_prefix: the token after [CLS]; null for the checkpoint's, or "[Q] " and "[D] ".
        query_prompt, document_prompt: text put before each input; null for the checkpoint's, or none.
        skiplist_words: tokens dropped from documents; null for the checkpoint's, or the punctuation marks.
        allow_mismatch: a checkpoint that was trained with other prompts, lengths, prefixes or another tokenizer than
            this run's is refused, since that costs quality; true to allow it, or a list of what may differ.
        gradient_checkpointing: recompute each layer in the backward pass rather than keep its activations.
        compile: compile the encoder with torch.compile.
    """

    init: str | None = None
    tokenizer: str | None = None
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
        if (self.init is None) == (self.tokenizer is None):
            raise UserError(
                "give one of model.init (a checkpoint to start from) and model.tokenizer (a tokenizer.json, for random "
                f"weights); got init={self.init!r} and tokenizer={self.tokenizer!r}"
            )


@dataclass(frozen=True)
class SourceConfig:
    """One data set to train on.

    Attributes:
        path: a .jsonl, .jsonl.gz, .csv or .parquet file, a directory that `datasets` saved or that is laid out like a
            hub repository, or the id of a data set on the Hugging Face hub; null for the published one of `layout`.
        layout: what the rows look like. `columns`: as the settings below say. The others name published data sets:
            `nomic-unsupervised` (pairs), `nomic-supervised` (pairs and hard negatives), `ms-marco-scores` (lists of
            document ids with a teacher's scores; texts in data sets of their own).
        subset: configuration of a hub data set that has several.
        split: its split; for the nomic layouts one or more of theirs, each a data set of its own, null for all.
        query: column of the query.
        document: column of the document that answers it, or of a list of documents, that one first.
        negatives: columns of hard negatives, each a text or a list of texts.
        max_negatives: hard negatives used of each row, the first ones; null for all.
        scores: column of the teacher's scores, one for each document of a row; null for rows without.
        max_documents: scored documents used of each row, the first ones; null for all.
        document_id: column of the document's id or ids, by which duplicates are known besides by their text.
        weight: how often this data set is drawn, relative to the others; null for its number of rows.
        streaming: read a hub data set as it comes, without a local copy; needs max_steps.
    """

    path: str | None = None
    layout: Literal["columns", "nomic-unsupervised", "nomic-supervised", "ms-marco-scores"] = "columns"
    subset: str | None = None
    split: str | list[str] | None = None
    query: str = "query"
    document: str = "document"
    negatives: list[str] = field(default_factory=list)
    max_negatives: int | None = None
    scores: str | None = None
    max_documents: int | None = None
    document_id: str | None = None
    weight: float | None = None
    streaming: bool = False

    def __post_init__(self) -> None:
        _require(
            self.path is not None or self.layout != "columns",
            "a data set with layout 'columns' needs a path: a file, a directory or a hub id",
        )
        _require(
            self.max_negatives is None or self.max_negatives >= 0,
            f"max_negatives must be at least 0, got {self.max_negatives}",
        )
        _require(
            self.max_documents is None or self.max_documents >= 2,
            f"max_documents must be at least 2, got {self.max_documents}",
        )
        _require(self.weight is None or self.weight > 0, f"weight must be positive, got {self.weight}")


@dataclass(frozen=True)
class DataConfig:
    """What to train on: one data set or a mixture, from which each step draws one for all processes.

    Attributes:
        train: a path, for pairs in the columns `query` and `document`, or a list of data sets.
        mixture_temperature: data sets without a weight are drawn in proportion to rows^(1 / temperature): 1 for their
            sizes, larger for more of the small ones.
        max_bad_rows: rows that cannot be used (an empty text, a missing id, a wrong type) are counted and the next good
            row takes their place; with more than this many, training stops and shows the first one.
        num_workers: processes that read and tokenise ahead of the training step; 0 to do so between steps.
    """

    train: list[SourceConfig] | str
    mixture_temperature: float = 1.0
    max_bad_rows: int = 100
    num_workers: int = 0

    def __post_init__(self) -> None:
        _require(self.num_workers >= 0, f"data.num_workers must be at least 0, got {self.num_workers}")
        _require(self.max_bad_rows >= 0, f"data.max_bad_rows must be at least 0, got {self.max_bad_rows}")
        _require(
            self.mixture_temperature > 0, f"data.mixture_temperature must be positive, got {self.mixture_temperature}"
        )
        _require(bool(self.train), "data.train is empty; name a file or a list of data sets")
        _require(
            not isinstance(self.train, str) or not self.train.lstrip().startswith(("[", "{")),
            f"data.train is neither a path nor a valid list of data sets: {self.train!r:.200}; see SourceConfig in "
            "colbertz/training/config.py for the keys and types of a data set",
        )

    @property
    def sources(self) -> list[SourceConfig]:
        """`train` as a list, whichever way it was written."""
        return [SourceConfig(self.train)] if isinstance(self.train, str) else self.train


@dataclass(frozen=True)
class LossConfig:
    """What a step minimises.

    Attributes:
        kind: `contrastive`: each query's own document against all others of the batch, hard negatives included.
            `distillation`: Kullback-Leibler divergence from a teacher's scores of each query's documents. `margin_mse`:
            squared error of the differences between the first document's score and those of the others. `mlm`: masked
            language modelling of queries and documents alike, to warm up an encoder with random weights.
        score: `maxsim`, or `xtr`, where a document counts only with tokens among the `xtr_k` nearest of the batch.
        xtr_k: tokens of the batch that each query token retrieves.
        temperature: contrastive scores, sums over query tokens, are divided by it.
        learn_temperature: train it like a weight, between the two bounds below.
        min_temperature, max_temperature: its bounds.
        symmetric: add the contrastive loss from documents to queries, and halve the sum.
        mask_duplicates: in the contrastive loss, leave out documents with the text or id of the query's own one.
        false_negative_margin: leave out negatives that score higher than the query's own document by more than this;
            null to keep them.
        normalize_student: distillation: stretch the student's scores of each query to [0, 1] first, as PyLate does.
        student_temperature, teacher_temperature: distillation: scores are divided by them; the loss is multiplied by
            the square of the student's, as in sentence-transformers.
        masked_share: mlm: of the tokens that are to be predicted.
        contrastive_weight: of a contrastive loss added to the distillation or margin_mse.
        matryoshka_dims: train the first so many dimensions of the embeddings too, each as if it were the whole.
        matryoshka_weights: weights of these losses; empty for 1 each.
    """

    kind: Literal["contrastive", "distillation", "margin_mse", "mlm"] = "contrastive"
    score: Literal["maxsim", "xtr"] = "maxsim"
    xtr_k: int = 256
    temperature: float = 0.2
    learn_temperature: bool = False
    min_temperature: float = 0.001
    max_temperature: float = 10.0
    symmetric: bool = False
    mask_duplicates: bool = True
    false_negative_margin: float | None = None
    normalize_student: bool = True
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    masked_share: float = 0.3
    contrastive_weight: float = 0.0
    matryoshka_dims: list[int] = field(default_factory=list)
    matryoshka_weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("temperature", "student_temperature", "teacher_temperature", "xtr_k", "min_temperature"):
            _require(getattr(self, name) > 0, f"loss.{name} must be positive, got {getattr(self, name)}")
        _require(
            self.min_temperature <= self.temperature <= self.max_temperature,
            f"loss.temperature must be between min_temperature {self.min_temperature:g} and max_temperature "
            f"{self.max_temperature:g}, got {self.temperature:g}",
        )
        _require(0 < self.masked_share < 1, f"loss.masked_share must be between 0 and 1, got {self.masked_share}")
        _require(self.contrastive_weight >= 0, f"loss.contrastive_weight must be at least 0: {self.contrastive_weight}")
        _require(
            self.false_negative_margin is None or self.false_negative_margin >= 0,
            f"loss.false_negative_margin must be at least 0, got {self.false_negative_margin}",
        )
        _require(
            all(d > 0 for d in self.matryoshka_dims), f"loss.matryoshka_dims must be positive: {self.matryoshka_dims}"
        )
        _require(
            not self.matryoshka_weights or len(self.matryoshka_weights) == len(self.matryoshka_dims),
            f"loss.matryoshka_weights has {len(self.matryoshka_weights)} entries for "
            f"{len(self.matryoshka_dims)} matryoshka_dims; give one for each, or none",
        )

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss of a query depends on the other queries' documents."""
        return self.kind != "mlm" and (self.kind == "contrastive" or self.contrastive_weight > 0 or self.score == "xtr")

    @property
    def needs_teacher(self) -> bool:
        return self.kind in ("distillation", "margin_mse")


@dataclass(frozen=True)
class EvalConfig:
    """Judging the model while it trains; the best one is kept in `<output>/best`.

    Attributes:
        pairs: file of held-out pairs (`query`, `document`), each query searched in all of their documents.
        max_pairs: of these pairs that an evaluation during training looks at; the one at the end takes all.
        beir: directories in BEIR's layout (corpus, queries and qrels/), searched exactly.
        split: of the qrels: qrels/<split>.tsv.
        every: steps between two evaluations; 0 for one at the end.
        metric: the one that decides which model is best: ndcg@10, mrr@10 or recall@10, the mean over the collections.
        patience: stop after so many evaluations without a better one; 0 to go on to the end.
    """

    pairs: str | None = None
    max_pairs: int = 1000
    beir: list[str] = field(default_factory=list)
    split: str = "dev"
    every: int = 0
    metric: Literal["ndcg@10", "mrr@10", "recall@10"] = "ndcg@10"
    patience: int = 0

    def __post_init__(self) -> None:
        _require(self.max_pairs > 1, f"eval.max_pairs must be at least 2, got {self.max_pairs}")
        _require(self.every >= 0, f"eval.every must be at least 0, got {self.every}")
        _require(self.patience >= 0, f"eval.patience must be at least 0, got {self.patience}")
        _require(
            self.patience == 0 or self.every > 0, "eval.patience stops between evaluations; set eval.every to have some"
        )


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate.

    Attributes:
        lr: the highest learning rate.
        embedding_lr: that of the token embeddings; null for lr. Rarely seen rows of a new model want a larger one.
        betas: decay of AdamW's running means of the gradient and of its square.
        eps: AdamW's term in the denominator.
        weight_decay: of the matrices; norms, biases and token embeddings have none.
        warmup_steps: steps over which the rate rises from 0.
        schedule: how it falls afterwards: linear or cosine to zero on the last step, or constant.
        max_grad_norm: gradients are scaled down to this norm; 0 for no clipping.
    """

    lr: float = 1e-3
    embedding_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = 0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "embedding_lr", "eps"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"optim.{name} must be positive, got {value}")
        for name in ("weight_decay", "warmup_steps", "max_grad_norm"):
            _require(getattr(self, name) >= 0, f"optim.{name} must be at least 0, got {getattr(self, name)}")
        _require(all(0 <= b < 1 for b in self.betas), f"optim.betas must be in [0, 1), got {self.betas}")


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Attributes:
        output: directory of the run: the trained model (`model/`), the best one (`best/`, if there are evaluations),
            `metrics.jsonl`, these settings (`config.yaml`) and what it takes to resume (`checkpoints/`).
        model: what to start from.
        data: what to train on.
        loss: what to minimise.
        optim: how.
        eval: how the model is judged on the way.
        batch_size: queries in a step, over all processes together.
        minibatch_tokens: tokens that a process's model sees at once; larger batches are gone through by gradient
            caching, with the same gradient. 0 for the whole batch at once.
        accumulation_steps: parts that a batch is cut into for losses that look at each query alone.
        epochs: passes over the data, a fraction is allowed; ignored when max_steps is given.
        max_steps: steps to train; null for what epochs amounts to.
        seed: of the weights, of dropout and of the order of the data.
        bf16: compute in bfloat16, weights and embeddings in float32; null for doing so on CUDA and not on the CPU,
            where it pays only if the processor multiplies bfloat16 (avx512_bf16 or amx_bf16 in /proc/cpuinfo).
        fsdp: shard weights, gradients and optimizer state over the processes (FSDP2) instead of copying them (DDP).
        ema_decay: keep an exponential moving average of the weights, which is what is evaluated and saved; 0 for none.
        log_every: steps between two lines of metrics.
        save_every: steps between two checkpoints to resume from; 0 for none but when the run is interrupted.
        keep_checkpoints: how many of the newest are kept.
        overwrite: start anew where `output` holds a run; false to resume it.
        tensorboard: also write TensorBoard event files (`pip install "colbertz[train]"`).
        wandb: also report to this Weights & Biases project (`pip install wandb`); null for not.
    """

    output: str
    model: ModelConfig
    data: DataConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    batch_size: int = 128
    minibatch_tokens: int = 0
    accumulation_steps: int = 1
    epochs: float = 1.0
    max_steps: int | None = None
    seed: int = 0
    bf16: bool | None = None
    fsdp: bool = False
    ema_decay: float = 0.0
    log_every: int = 10
    save_every: int = 0
    keep_checkpoints: int = 2
    overwrite: bool = False
    tensorboard: bool = False
    wandb: str | None = None

    def __post_init__(self) -> None:
        least = 2 if self.loss.needs_whole_batch else 1
        _require(
            self.batch_size >= least,
            f"batch_size must be at least {least}{' to have a negative' if least > 1 else ''}, got {self.batch_size}",
        )
        _require(self.epochs > 0, f"epochs must be positive, got {self.epochs}")
        _require(self.max_steps is None or self.max_steps > 0, f"max_steps must be positive, got {self.max_steps}")
        _require(self.log_every > 0, f"log_every must be positive, got {self.log_every}")
        _require(self.keep_checkpoints > 0, f"keep_checkpoints must be at least 1, got {self.keep_checkpoints}")
        _require(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}")
        for name in ("save_every", "minibatch_tokens"):
            _require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")
        _require(self.accumulation_steps > 0, f"accumulation_steps must be at least 1, got {self.accumulation_steps}")
        if self.accumulation_steps > 1 and self.loss.needs_whole_batch:
            raise UserError(
                f"accumulation_steps is {self.accumulation_steps}, but this loss compares each query with the "
                "documents of the whole batch, and parts of it are another loss; set minibatch_tokens instead, which "
                "gives the gradient of the whole batch in the memory of a part"
            )
        _require(
            self.loss.kind != "mlm" or not (self.minibatch_tokens or self.fsdp),
            "loss.kind mlm goes with neither minibatch_tokens, for which accumulation_steps stands in, nor with fsdp",
        )
        _require(
            self.batch_size % self.accumulation_steps == 0,
            f"batch_size {self.batch_size} cannot be cut into {self.accumulation_steps} equal accumulation_steps",
        )


def load(argv: Sequence[str]) -> TrainingConfig:
    """Read settings from command line arguments, of which `--config FILE` names a YAML file.

    Raises:
        ValueError: for a key that does not exist (with the nearest one that does), a value of the wrong type or
            out of range, or a missing setting.
        FileNotFoundError: if there is no such YAML file.
        SystemExit: after `--help`.
    """
    import jsonargparse

    _check_arguments(argv)
    settings = parser()
    try:
        namespace = settings.parse_args(list(argv))
        values = vars(settings.instantiate(namespace))
    except jsonargparse.ArgumentError as error:
        raise UserError(" ".join(str(error).split())) from None
    return TrainingConfig(**{f.name: values[f.name] for f in fields(TrainingConfig)})


def parser() -> "jsonargparse.ArgumentParser":
    """The parser of the settings, which also formats their help."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(
        prog="colbertz train", usage="%(prog)s --config FILE [--dry-run] [--SETTING VALUE ...]", exit_on_error=False
    )
    made.add_argument(
        "--config", action="config", metavar="FILE", help="YAML file of settings; later arguments override it"
    )
    made.add_class_arguments(TrainingConfig, as_positional=False)
    return made


def differences(before: TrainingConfig, now: TrainingConfig) -> list[str]:
    """What separates two runs, as "key: old, now new", but for settings that change nothing in the result."""
    old, new = (dict(_leaves(_plain(config))) for config in (before, now))
    return [
        f"{key}: {old.get(key)!r:.60}, now {new.get(key)!r:.60}"
        for key in new
        if key not in _INCIDENTAL and old.get(key) != new[key]
    ]


_INCIDENTAL = {
    "output",
    "data.num_workers",
    "log_every",
    "save_every",
    "keep_checkpoints",
    "overwrite",
    "tensorboard",
    "wandb",
}


def _leaves(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def dump(config: TrainingConfig) -> str:
    """The settings as YAML that `load` reads back."""
    return yaml.safe_dump(_plain(config), sort_keys=False)


def _plain(value: Any) -> Any:
    """Settings as dictionaries, lists and plain values."""
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _check_arguments(argv: Sequence[str]) -> None:
    """Refuse unknown keys, in the YAML file and among the arguments, before the parser words it less helpfully."""
    valid = dict(_keys(TrainingConfig))
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--"):
            continue
        key, _, value = argument[2:].partition("=")
        if key == "config":
            path = Path(value or next(arguments, ""))
            if not path.is_file():
                raise FileNotFoundError(f"there is no configuration file {str(path)!r}; see configs/ for examples")
            for found in _flattened(read_yaml(path), valid):
                if found not in valid:
                    raise UserError(f"{path}: {_unknown(found, valid)}")
        elif key not in valid and key.removeprefix("no_") not in ("help", "print_config"):
            raise UserError(_unknown(key, valid, "--"))


def shipped(name: str) -> Path:
    """A file or folder of configs/: the current directory's, or the one that came with colbertz."""
    places = [Path("configs"), Path(__file__).parents[1] / "configs"]
    return next((place / name for place in places if (place / name).exists()), places[0] / name)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ValueError: if it is not YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, such as 'output: runs/mine', got {content!r:.60}")
    return content


def _keys(config: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted names of all settings, and whether each is a section."""
    for name, kind in get_type_hints(config).items():
        section = is_dataclass(kind)
        yield f"{prefix}{name}", section
        if section:
            assert isinstance(kind, type)
            yield from _keys(kind, f"{prefix}{name}.")
        for option in get_args(kind):
            for part in get_args(option):
                if is_dataclass(part):  # a list of sections
                    assert isinstance(part, type)
                    yield from _keys(part, f"{prefix}{name}[].")


def _flattened(content: dict[str, Any], valid: dict[str, bool], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and valid.get(key):
            yield from _flattened(value, valid, f"{key}.")
        elif isinstance(value, list) and any(name.startswith(f"{key}[].") for name in valid):
            for part in value:
                yield from _flattened(part, valid, f"{key}[].") if isinstance(part, dict) else [key]
        else:
            yield key


def _unknown(key: str, valid: dict[str, bool], dashes: str = "") -> str:
    # The right name in the wrong section is as near as a misspelt one in the right section.
    last = key.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(key, valid, n=1) or [k for k in valid if k.rsplit(".", 1)[-1] == last]
    hint = f"did you mean {dashes}{near[0]}?" if near else f"valid are {', '.join(k for k in valid if not valid[k])}"
    return f"there is no setting {dashes}{key}; {hint}"
