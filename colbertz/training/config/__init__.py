"""Settings of a training run: what each means, its default, its allowed values, and how they are read and written.

model.py        ModelConfig: the model to start from
data.py         DataConfig, SourceConfig: the data sets
loss.py         LossConfig: the loss
schedule.py     OptimConfig, EvalConfig: the optimizer, and evaluation during training
run.py          TrainingConfig: all settings of one run
checks.py       how a setting with a bad value is refused
command_line.py `load`: settings from a YAML file and the command line; the text of --help
keys.py         unknown settings are refused, with the nearest one that exists
files.py        reading YAML, writing the settings of a run, comparing those of two runs
"""

from colbertz.training.config.command_line import load
from colbertz.training.config.data import DataConfig, SourceConfig
from colbertz.training.config.files import differences, dump, read_yaml, shipped
from colbertz.training.config.loss import LossConfig
from colbertz.training.config.model import ModelConfig
from colbertz.training.config.run import TrainingConfig
from colbertz.training.config.schedule import EvalConfig, OptimConfig

__all__ = [
    "DataConfig",
    "EvalConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SourceConfig",
    "TrainingConfig",
    "differences",
    "dump",
    "load",
    "read_yaml",
    "shipped",
]
