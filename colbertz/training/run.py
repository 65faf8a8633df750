"""Everything that a run needs, made from its settings."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import nn

from colbertz.errors import UserError
from colbertz.evaluation import Collection, from_pairs, read_beir
from colbertz.kernels.cpu.onednn import WHEN_TRAINING, keep_products
from colbertz.models import ColBERT
from colbertz.training import data, optim, precision, state
from colbertz.training.config import EvalConfig, TrainingConfig
from colbertz.training.distributed import World
from colbertz.training.mlm import MaskedLanguageHead
from colbertz.training.model import build_model, copy_for_evaluation, replicate, spread
from colbertz.training.objective import Objective


@dataclass(frozen=True)
class Run:
    """Everything that a run needs, ready for its first step.

    Attributes:
        config: its settings, in which `bf16` is true or false.
        world: its processes.
        model: the model being trained.
        network: the model spread over the processes.
        eval_model: the model that is evaluated and saved: `model`, or a copy with whole or averaged weights; None in
            all processes but the first.
        objective: the loss.
        trained: the tensors that training changes.
        batches: the data, one batch for each step.
        collections: the collections that the trained model is evaluated on, with different names.
        samples: the same with at most `eval.max_pairs` queries of the held-out pairs, for evaluations during the run.
    """

    config: TrainingConfig
    world: World
    model: ColBERT
    network: nn.Module
    eval_model: ColBERT | None
    objective: Objective | MaskedLanguageHead
    trained: state.Trained
    batches: data.StepBatches
    collections: list[Collection]
    samples: list[Collection]

    @property
    def has_samples(self) -> bool:
        """Whether evaluations during the run have fewer queries than the last one."""
        return any(sample is not collection for sample, collection in zip(self.samples, self.collections))

    @property
    def num_steps(self) -> int:
        """The number of steps of the whole run."""
        return len(self.batches)

    @property
    def eval_model_is_a_copy(self) -> bool:
        """Whether the weights must be copied before the model is evaluated or saved."""
        return self.config.fsdp or self.config.ema_decay > 0


def prepare(config: TrainingConfig, world: World) -> Run:
    """Open the data, build the model in training mode, and make the optimizer; nothing is written.

    Seeds PyTorch's global random number generator, from which dropout and masked language modelling draw.

    Raises:
        UserError, FileNotFoundError: for settings, data or a checkpoint that cannot be used.
    """
    keep_products(WHEN_TRAINING)
    config = precision.settled(config, world)
    model = build_model(config.model, config.seed)
    batches = data.open_batches(config, model.tokenizer, world.rank, world.size)
    collections, samples = _open_collections(config.eval)
    for dim in config.loss.matryoshka_dims:
        if dim >= model.embedding_dim:
            raise UserError(
                f"loss.matryoshka_dims holds {dim}, but embeddings have {model.embedding_dim} dimensions, "
                "which are trained anyway; give smaller ones"
            )
    # The weights are drawn with the seed itself. Dropout differs between processes, so the rank is added.
    torch.manual_seed(config.seed + world.rank)
    model = model.to(world.device).train()
    eval_model = model if world.is_main else None
    if config.fsdp or config.ema_decay:
        eval_model = copy_for_evaluation(model) if world.is_main else None
    objective: Objective | MaskedLanguageHead
    if config.loss.kind == "mlm":
        network = replicate(cast(nn.Module, model.encoder), world)
        objective = MaskedLanguageHead.of(model.encoder)
    else:
        network = spread(model, world, fsdp=config.fsdp)
        objective = Objective(config.loss)
    objective = objective.to(world.device)
    optimizer = optim.build(model, objective, config.optim)
    named = [*model.named_parameters(), *objective.named_parameters()]
    parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
    averages = [p.detach().clone() for p in parameters.values()] if config.ema_decay else []
    trained = state.Trained(parameters, optimizer, averages)
    return Run(config, world, model, network, eval_model, objective, trained, batches, collections, samples)


def _open_collections(config: EvalConfig) -> tuple[list[Collection], list[Collection]]:
    """The collections that the model is evaluated on, and those for evaluations during the run.

    Collections of the same name are named by their paths: metrics are reported by name.
    """
    opened = [(directory, read_beir(directory, config.split)) for directory in config.beir]
    if config.pairs:
        held_out = data.read_pairs(config.pairs)
        opened.append((config.pairs, from_pairs("pairs", held_out.queries, held_out.documents)))
    counts = Counter(collection.name for _, collection in opened)
    collections = [
        collection if counts[collection.name] == 1 else replace(collection, name=path) for path, collection in opened
    ]
    if not config.pairs:
        return collections, collections
    return collections, [*collections[:-1], collections[-1].some_queries(config.max_pairs)]
