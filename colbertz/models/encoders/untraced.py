"""What torch.compile must not trace. A module of its own, because the decorator takes a second to import.

`attention_over_runs` is a Python loop over lengths that differ from batch to batch: tracing it would compile a new
program for nearly every batch.
"""

import torch

from colbertz.models.encoders import runs

attention_over_runs = torch.compiler.disable(runs.attention_over_runs)
