"""Two gloo processes compute the gradient that one process computes on the same global batch, scale included."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from toy_training import settings, write

from colbertz.ragged import Ragged
from colbertz.training import config, distributed
from colbertz.training.config import LossConfig
from colbertz.training.loop import train

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def join(rank: int, size: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)


def gather_unequal(rank: int, size: int, port: int, folder: Path) -> None:
    """Processes with 3 and 1 texts: check order, values, and a gradient that is the sum over processes."""
    join(rank, size, port)
    with distributed.world():
        lengths = [[2, 0, 3], [4]]
        local = torch.full((sum(lengths[rank]), 2), float(rank + 1)).requires_grad_()
        gathered = distributed.gather(Ragged.from_lengths(local, lengths[rank]))
        weights = torch.arange(18.0).view(9, 2)
        ((rank + 1) * gathered.values * weights).sum().backward()
        ok = gathered.lengths.tolist() == [2, 0, 3, 4] and gathered.values[:, 0].tolist() == [1.0] * 5 + [2.0] * 4
        local_weights = weights[:5] if rank == 0 else weights[5:]
        ok = ok and torch.equal(local.grad, 3 * local_weights)  # weight 1 from the first process and 2 from the second
        (folder / f"gathered-{rank}").write_text(str(ok))


def test_processes_may_hold_different_numbers_of_tokens(tmp_path: Path) -> None:
    mp.spawn(gather_unequal, (2, free_port(), tmp_path), nprocs=2)
    assert [(tmp_path / f"gathered-{rank}").read_text() for rank in (0, 1)] == ["True", "True"]


def test_one_process_gathers_its_own_texts() -> None:
    texts = Ragged.from_lengths(torch.randn(5, 2), [2, 3])
    assert distributed.gather(texts) is texts


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does(tmp_path: Path) -> None:
    write(tmp_path)
    config_of_run = settings(tmp_path, max_steps=6, log_every=1)
    train(config_of_run)
    alone = losses_of(tmp_path / "run")
    torchrun(config_of_run, tmp_path)
    assert len(alone) == 6
    torch.testing.assert_close(losses_of(tmp_path / "run"), alone, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_torchrun_warms_up_as_one_process_does(tmp_path: Path) -> None:
    """Two processes mask other tokens than one process does, so only the course of the loss can be compared."""
    write(tmp_path)
    config_of_run = settings(tmp_path, loss=LossConfig(kind="mlm"), max_steps=40, batch_size=48, log_every=10)
    train(config_of_run)
    alone = losses_of(tmp_path / "run")
    torchrun(config_of_run, tmp_path)
    together = losses_of(tmp_path / "run")
    assert together[-1] < 0.85 * together[0]
    torch.testing.assert_close(together, alone, rtol=0.1, atol=0)


def torchrun(config_of_run: config.TrainingConfig, folder: Path) -> None:
    """Repeat the run with two processes; it overwrites the run that is in the output."""
    config_of_run = replace(config_of_run, overwrite=True)
    (folder / "x.yaml").write_text(config.dump(config_of_run))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    command += [str(ROOT / "train.py"), "--config", str(folder / "x.yaml")]
    subprocess.run(command, check=True, cwd=ROOT, timeout=200, capture_output=True)


def losses_of(run: Path) -> torch.Tensor:
    reports = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return torch.tensor([report["loss"] for report in reports if "loss" in report])
