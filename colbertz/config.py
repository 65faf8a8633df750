"""Every setting of a training run: what it means, its default, and what it may be.

`load` reads them from a YAML file and from the command line, where a dot leads into a section:
`--config configs/demo.yaml --optim.lr 1e-3`. A key that does not exist is refused, never ignored.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


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

    def __post_init__(self) -> None:
        if (self.init is None) == (self.tokenizer is None):
            raise ValueError(
                "give one of model.init (a checkpoint to start from) and model.tokenizer (a tokenizer.json, for random "
                f"weights); got init={self.init!r} and tokenizer={self.tokenizer!r}"
            )


@dataclass(frozen=True)
class DataConfig:
    """Pairs of a query and the document that answers it, one JSON object a line, .jsonl or .jsonl.gz.

    Attributes:
        train: file of the pairs to train on.
        eval: file of held-out pairs; null to train without evaluation.
        query: key of the query in each object.
        document: key of the document.
        num_workers: processes that tokenise ahead of the training step; 0 to tokenise between steps.
    """

    train: str
    eval: str | None = None
    query: str = "query"
    document: str = "document"
    num_workers: int = 0

    def __post_init__(self) -> None:
        _require(self.num_workers >= 0, f"data.num_workers must be at least 0, got {self.num_workers}")


@dataclass(frozen=True)
class LossConfig:
    """The contrastive loss: each query against its own document and all others of the batch.

    Attributes:
        temperature: MaxSim scores, sums over query tokens, are divided by it; smaller looks at the hardest negatives.
    """

    temperature: float = 0.2

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"loss.temperature must be positive, got {self.temperature}")


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
        output: directory for the model (`model/`), the metrics (`metrics.jsonl`) and these settings (`config.yaml`).
        model: what to start from.
        data: what to train on.
        loss: what to minimise.
        optim: how.
        batch_size: pairs in a step, over all processes together.
        epochs: passes over the data, a fraction is allowed; ignored when max_steps is given.
        max_steps: steps to train; null for what epochs amounts to.
        seed: of the weights, of dropout and of the order of the data.
        bf16: compute in bfloat16 where the device is CUDA; the CPU computes in float32.
        log_every: steps between two lines of metrics.
        eval_every: steps between two evaluations; 0 for one at the end.
        eval_pairs: pairs of data.eval that an evaluation during training looks at; the one at the end takes all.
        save_every: steps between two checkpoints; 0 for one at the end.
        tensorboard: also write TensorBoard event files (`pip install "colbertz[train]"`).
    """

    output: str
    model: ModelConfig
    data: DataConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    batch_size: int = 128
    epochs: float = 1.0
    max_steps: int | None = None
    seed: int = 0
    bf16: bool = True
    log_every: int = 10
    eval_every: int = 0
    eval_pairs: int = 1000
    save_every: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _require(self.batch_size >= 2, f"batch_size must be at least 2 to have a negative, got {self.batch_size}")
        _require(self.epochs > 0, f"epochs must be positive, got {self.epochs}")
        _require(self.max_steps is None or self.max_steps > 0, f"max_steps must be positive, got {self.max_steps}")
        _require(self.log_every > 0, f"log_every must be positive, got {self.log_every}")
        _require(self.eval_pairs > 1, f"eval_pairs must be at least 2, got {self.eval_pairs}")
        for name in ("eval_every", "save_every"):
            _require(getattr(self, name) >= 0, f"{name} must be at least 0, got {getattr(self, name)}")


def load(argv: Sequence[str]) -> TrainingConfig:
    """Read settings from command line arguments, of which `--config FILE` names a YAML file.

    Raises:
        ValueError: for a key that does not exist (with the nearest one that does), a value of the wrong type or
            out of range, or a missing setting.
        FileNotFoundError: if there is no such YAML file.
        SystemExit: after `--help`.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog="train.py", description=TrainingConfig.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; later arguments override it")
    parser.add_class_arguments(TrainingConfig, as_positional=False)
    _check_arguments(argv)
    try:
        namespace = parser.parse_args(list(argv))
        values = vars(parser.instantiate(namespace))
    except jsonargparse.ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return TrainingConfig(**{f.name: values[f.name] for f in fields(TrainingConfig)})


def dump(config: TrainingConfig) -> str:
    """The settings as YAML that `load` reads back."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return yaml.safe_dump(plain(config), sort_keys=False)


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
            for found in _flattened(_read_yaml(path), valid):
                if found not in valid:
                    raise ValueError(f"{path}: {_unknown(found, valid)}")
        elif key not in valid and key.removeprefix("no_") not in ("help", "print_config"):
            raise ValueError(_unknown(key, valid, "--"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values, such as 'output: runs/mine', got {content!r:.60}")
    return content


def _keys(config: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted names of all settings, and whether each is a section."""
    for name, kind in get_type_hints(config).items():
        section = is_dataclass(kind)
        yield f"{prefix}{name}", section
        if section:
            assert isinstance(kind, type)
            yield from _keys(kind, f"{prefix}{name}.")


def _flattened(content: dict[str, Any], valid: dict[str, bool], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and valid.get(key):
            yield from _flattened(value, valid, f"{key}.")
        else:
            yield key


def _unknown(key: str, valid: dict[str, bool], dashes: str = "") -> str:
    # The right name in the wrong section is as near as a misspelt one in the right section.
    last = key.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(key, valid, n=1) or [k for k in valid if k.rsplit(".", 1)[-1] == last]
    hint = f"did you mean {dashes}{near[0]}?" if near else f"valid are {', '.join(k for k in valid if not valid[k])}"
    return f"there is no setting {dashes}{key}; {hint}"
