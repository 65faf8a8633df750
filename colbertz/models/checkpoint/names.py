"""The names of tensors in checkpoints: from what other programs write to those of our modules.

Programs put names of their own before or into the names of the encoder's tensors: `model.` for a whole language model,
`module.` for DistributedDataParallel, `_orig_mod.` for torch.compile. Some programs save a matrix that two parts of a
model share under the name of the other part.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from colbertz.models.checkpoint.layouts import CheckpointError

# Modules that wrap another module, whose name they put into those of its tensors: DistributedDataParallel,
# torch.compile, FullyShardedDataParallel, activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Prefixes under which transformers looks for an encoder too, in the order in which they are preferred.
_USUAL_PREFIXES = ("", "model.", "bert.")
# The matrix of a language model's head, which is the embedding matrix if the two are tied.
_TIED_HEADS = ("cls.predictions.decoder.weight", "lm_head.decoder.weight", "lm_head.weight", "decoder.weight")


def unwrapped(tensors: Mapping[str, Tensor], origin: Path) -> dict[str, Tensor]:
    """The tensors without wrappers in their names, and with the present names of a LayerNorm's parts.

    BERT's first checkpoints called a LayerNorm's weight and bias gamma and beta, and transformers 5 writes that again.

    Raises:
        CheckpointError: if two different tensors would have the same name.
    """
    renamed: dict[str, str] = {}
    for name in tensors:
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        plain = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", plain))
        other = renamed.setdefault(plain, name)
        if other != name and not torch.equal(tensors[other], tensors[name]):
            raise CheckpointError(f"{origin}: tensors {other} and {name} are two versions of one; remove one of them")
    return {plain: tensors[name] for plain, name in renamed.items()}


def of_encoder(
    tensors: Mapping[str, Tensor], needed: Collection[str], embedding: str, tied: bool, origin: Path
) -> dict[str, Tensor]:
    """The tensors of an encoder under their names in our module, and all others under the names that they have.

    Args:
        tensors: as `unwrapped` returns them.
        needed: the names of the module's tensors.
        embedding: which of them is the embedding matrix.
        tied: whether the embedding matrix may be stored as that of the language model's head.
        origin: directory of the encoder, for messages.

    Raises:
        CheckpointError: if the weights hold several encoders of which none has a usual name.
    """
    prefix = _prefix(tensors, set(needed), origin)
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    named |= {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix) and name not in named}
    if tied and embedding not in named:
        heads = [name for name in named if any(f".{name}".endswith(f".{head}") for head in _TIED_HEADS)]
        if len(heads) == 1:
            named[embedding] = named.pop(heads[0])
    return named


def _prefix(tensors: Mapping[str, Tensor], needed: set[str], origin: Path) -> str:
    """What stands before the names of the encoder's tensors: the prefix under which most of them are found."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in needed:
                counts[".".join([*parts[:i], ""])] += 1
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    usual = [prefix for prefix in _USUAL_PREFIXES if prefix in best]
    if len(best) > 1 and not usual:
        raise CheckpointError(
            f"{origin} holds several encoders, under {' and '.join(sorted(best)[:3])}; "
            "save the one that is meant as a checkpoint of its own"
        )
    return [*usual, *best, ""][0]
