"""The model of a run: loaded or drawn at random, fitted to the configuration, and spread over the processes."""

import copy
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from colbertz.errors import UserError
from colbertz.models import CheckpointError, ColBERT
from colbertz.models.checkpoint.hub import resolve
from colbertz.models.checkpoint.read import read_source
from colbertz.models.checkpoint.tokenizer_files import read_tokenizer
from colbertz.models.encoders.base import family_of
from colbertz.training import alignment
from colbertz.training.config import ModelConfig
from colbertz.training.distributed import World
from colbertz.training.state import whole

# Settings of ModelConfig that describe random weights; a family takes those that its configuration has.
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "local_attention",
    "global_attn_every_n_layers",
)
# Settings of ModelConfig that are also settings of a ColBERT model.
_SETTINGS = (
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "query_prefix",
    "document_prefix",
    "skiplist_words",
)
_SIDES = ("query", "document")


def build_model(config: ModelConfig, seed: int) -> ColBERT:
    """A model from a checkpoint, or with random weights and a tokenizer from a file; in float32 on the CPU.

    What `config` leaves open is as the checkpoint was trained, even if the checkpoint now reads longer texts.

    Raises:
        FileNotFoundError: if the checkpoint or the tokenizer does not exist.
        UserError: if the tokenizer cannot be read, or the checkpoint was trained on texts that were read differently
            (see `alignment`).
    """
    settings = {name: getattr(config, name) for name in _SETTINGS if getattr(config, name) is not None}
    prompts = {side: getattr(config, f"{side}_prompt") for side in _SIDES}
    prompts = {side: prompt for side, prompt in prompts.items() if prompt is not None}
    if config.init is None:
        model = _from_scratch(config, seed, {**settings, "prompts": prompts})
    else:
        directory = resolve(config.init)
        checkpoint = read_source(directory).settings
        trained = alignment.trained_settings(directory, checkpoint)
        settings = {name: value for name, value in trained.items() if name in _SETTINGS} | settings
        prompts = {side: trained[f"{side}_prompt"] for side in _SIDES if f"{side}_prompt" in trained} | prompts
        if prompts:
            # `prompts` replaces all prompts of the checkpoint, so the checkpoint's other prompts are added to it.
            settings["prompts"] = {**checkpoint.prompts, **prompts}
        model = ColBERT.from_pretrained(config.init, "cpu", embedding_dim=config.embedding_dim, seed=seed, **settings)
        alignment.check(config, model)
    model.encoder.gradient_checkpointing = config.gradient_checkpointing
    if config.compile:
        model.encoder.compile(dynamic=True)
    return model


def _from_scratch(config: ModelConfig, seed: int, settings: dict[str, Any]) -> ColBERT:
    path = Path(config.tokenizer or "")
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer file {str(path)!r} (model.tokenizer)")
    try:
        tokenizer = read_tokenizer(path)
    except CheckpointError as error:
        raise UserError(f"model.tokenizer {str(path)!r} is not a tokenizer.json: {error}") from None
    family = family_of(config.encoder).config
    names = {field.name for field in fields(family)}
    sizes = family.from_dict({name: getattr(config, name) for name in _SIZES if name in names})
    return ColBERT.from_scratch(sizes, tokenizer, embedding_dim=config.embedding_dim or 128, seed=seed, **settings)


def spread(model: ColBERT, world: World, *, fsdp: bool) -> nn.Module:
    """The model as the processes train it: copied to each (DDP) or sharded over them (FSDP2).

    The model itself if there is one process.

    Raises:
        UserError: if `fsdp` is set and there is one process.
    """
    if fsdp:
        if world.size == 1:
            raise UserError("fsdp shards the weights over several processes, but there is one; start it with torchrun")
        for layer in model.encoder.layers:
            fully_shard(layer)
        fully_shard(model)
        return model
    return replicate(model, world)


def replicate(network: nn.Module, world: World) -> nn.Module:
    """The network copied to each process (DDP); the network itself if there is one process."""
    # Without broadcasts of buffers, processes may run different numbers of minibatches. No encoder changes its buffers.
    return network if world.size == 1 else DistributedDataParallel(network, broadcast_buffers=False)


def copy_for_evaluation(model: ColBERT) -> ColBERT:
    """A copy to evaluate and save where the trained weights are sharded or averaged.

    `copy_weights_into` updates its weights.
    """
    return copy.deepcopy(model).eval()


@torch.no_grad()
def copy_weights_into(model: ColBERT | None, weights: Sequence[Tensor]) -> None:
    """Copy `weights`, one for each parameter, into a model, and gather their shards for that.

    All processes must call this, because all have shards; those without a copy of the model give None.
    """
    targets = [None] * len(weights) if model is None else list(model.parameters())
    for target, weight in zip(targets, weights):
        full = whole(weight)
        if target is not None:
            target.copy_(full)
