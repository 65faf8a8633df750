"""`overwrite` replaces what a run wrote, and removes nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from toy_training import settings, write

from colbertz import ColBERT
from colbertz.training import alignment
from colbertz.training.config import EvalConfig
from colbertz.training.loop import train


def test_overwriting_a_run_removes_nothing_else(tmp_path: Path) -> None:
    """The folders checkpoints/ and best/ were once removed with everything in them."""
    write(tmp_path)
    chosen = settings(tmp_path, max_steps=2, save_every=1, eval=EvalConfig())
    output = Path(chosen.output)
    train(chosen)
    alignment.save(ColBERT.from_pretrained(output / "model"), output / "best")
    mine = [output / "notes.txt", output / "best/notes.txt", output / "checkpoints/mine.pt"]
    mine += [
        next(output.glob("checkpoints/step-*")) / "notes.txt",
        output / "checkpoints/step-x/tensors.safetensors.old",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    train(replace(chosen, max_steps=1, save_every=0, overwrite=True))
    assert [path.read_text() for path in mine] == ["mine"] * len(mine)
    assert [path.name for path in (output / "best").iterdir()] == ["notes.txt"]
    assert not list(output.glob("checkpoints/step-*/state.json"))


@pytest.mark.parametrize("name", ["checkpoints/step-00000001/state.json", "best/model.safetensors", "metrics.jsonl"])
def test_files_of_another_program_are_not_overwritten(name: str, tmp_path: Path) -> None:
    chosen = settings(tmp_path, max_steps=1, overwrite=True)
    mine = Path(chosen.output) / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match=f"{name.split('/')[0]} is not of a run, because there is no .*config.yaml"):
        train(chosen)
    assert mine.read_text() == "mine"
