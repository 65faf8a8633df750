"""Settings from a YAML file and from the command line."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields

from colbertz.errors import UserError
from colbertz.training.config.files import shipped
from colbertz.training.config.keys import check_arguments
from colbertz.training.config.run import TrainingConfig

_USAGE = "train.py --config FILE [--dry-run] [--SECTION.SETTING VALUE ...]"

_GUIDE = """\
Train a model, with settings from a YAML file and from the command line.

Start from a configuration that comes with colbertz (they are in {configs}), with your own data and output directory:
  train.py --config {configs}/supervised.yaml --model.init MODEL --data.train pairs.jsonl --output runs/mine
Check the settings, the data and one training step first, without writing anything:
  train.py --config my.yaml --dry-run
Train:
  train.py --config my.yaml
Train with several processes, one for each GPU:
  torchrun --nproc-per-node 8 train.py --config my.yaml
Resume an interrupted run: give the same command again. It continues from the last checkpoint in the output directory.

Override a setting of the file on the command line, with a dot between section and setting:
  train.py --config my.yaml --optim.lr 1e-4 --batch_size 64
In the file, a section is a key with its settings indented below it:
  optim:
    lr: 1e-4
A file with the key `stages` is a recipe: several runs one after the other, such as configs/colbert-zero.yaml. The name
of a stage comes before its settings: --supervised.optim.lr 1e-4, --unsupervised.skip true.

`colbertz train` takes the same arguments. docs/training.md explains data, losses and recipes.
"""


def load(argv: Sequence[str]) -> TrainingConfig:
    """Read settings from command line arguments, of which `--config FILE` names a YAML file.

    Arguments override the file, and the file overrides the defaults.

    Raises:
        UserError: for a setting that does not exist (with the nearest one that does), a value of the wrong type or
            out of range, or a missing setting.
        FileNotFoundError: if the YAML file does not exist.
        SystemExit: after `--help` and `--print_config`.
    """
    import jsonargparse

    class Formatter(argparse.RawDescriptionHelpFormatter, jsonargparse.DefaultHelpFormatter):
        """Keeps the line breaks of the guide, and wraps the help of each setting."""

    parser = jsonargparse.ArgumentParser(
        prog="train.py",
        usage=_USAGE,
        description=_GUIDE.format(configs=shipped(".")),
        exit_on_error=False,
        formatter_class=Formatter,
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; later arguments override it")
    parser.add_class_arguments(TrainingConfig, as_positional=False)
    check_arguments(argv)
    try:
        values = vars(parser.instantiate(parser.parse_args(list(argv))))
    except UserError:
        raise
    except (jsonargparse.ArgumentError, ValueError) as error:
        # jsonargparse raises ValueError where an entry of a list of data sets is refused.
        message = " ".join(str(error).split())
        raise UserError(re.sub(r"<class '(\w+)'>", r"\1", message).replace("NoneType", "null")) from None
    return TrainingConfig(**{f.name: values[f.name] for f in fields(TrainingConfig)})
