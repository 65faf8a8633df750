"""Whether a run computes in bfloat16, where its settings leave that open.

Weights, their gradients, the optimizer's state and embeddings are float32 either way; bfloat16 is for the products and
activations of the encoder.
"""

from dataclasses import replace
from pathlib import Path

import torch

from colbertz.models.dtypes import chosen_dtype, fast_bf16
from colbertz.training import config as settings
from colbertz.training import distributed, state
from colbertz.training.config import TrainingConfig
from colbertz.training.distributed import World


def settled(config: TrainingConfig, world: World) -> TrainingConfig:
    """The settings with `bf16` true or false.

    A run that resumes goes on in the type in which it began, on whatever machine. All processes decide alike: with
    bfloat16 only if it is fast on all of them.
    """
    if config.bf16 is not None:
        return config
    output = Path(config.output)
    if not config.overwrite and (output / "config.yaml").is_file() and state.checkpoints(output):
        began = settings.load(["--config", str(output / "config.yaml")]).bf16
        # Runs of earlier versions kept null, which meant bfloat16 on CUDA only.
        return replace(config, bf16=world.device.type == "cuda" if began is None else began)
    is_slow = chosen_dtype("auto", world.device) == torch.float32
    return replace(config, bf16=not distributed.maximum(int(is_slow)))


def describe(config: TrainingConfig, world: World) -> str:
    """What a run with settled settings computes in, and why, for its first lines."""
    on_cpu = world.device.type == "cpu"
    instructions = fast_bf16() if on_cpu else None
    if config.bf16:
        slow = "; this processor converts it to float32, which is slower than float32 (bf16: false)"
        return "computing in bfloat16" + (f" ({instructions})" if instructions else slow if on_cpu else "")
    return "computing in float32" + (f", bfloat16 ({instructions}) would be faster" if instructions else "")
