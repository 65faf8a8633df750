"""A whole recipe as a user runs it: pairs, mined negatives, a teacher's scores, and three stages of training."""

import json
from pathlib import Path

import pytest
import yaml
from toy_training import pairs, settings, write

from colbertz.cli import main
from colbertz.evaluation import evaluate, from_pairs
from colbertz.models import ColBERT
from colbertz.training import config
from colbertz.training.config import DataConfig, EvalConfig, LossConfig, ModelConfig, SourceConfig


@pytest.mark.slow
def test_pairs_to_negatives_to_a_teacher_to_a_distilled_model(tmp_path: Path) -> None:
    write(tmp_path)
    runs, mined, scored = tmp_path / "runs", tmp_path / "mined.jsonl", tmp_path / "scored"
    first = settings(tmp_path, eval=EvalConfig(), max_steps=40)
    model_of_stage_before = ModelConfig(init="set by the recipe")
    second = settings(
        tmp_path,
        eval=EvalConfig(),
        model=model_of_stage_before,
        data=DataConfig([SourceConfig(str(mined), negatives=["negatives"], document_id="document_ids")]),
        max_steps=20,
        minibatch_tokens=100,
    )
    third = settings(
        tmp_path,
        eval=EvalConfig(),
        model=model_of_stage_before,
        data=DataConfig([SourceConfig(str(scored), layout="ms-marco-scores", max_documents=4)]),
        loss=LossConfig(kind="distillation"),
        max_steps=20,
    )
    stages = {"unsupervised": first, "supervised": second, "distillation": third}
    for name, stage in stages.items():
        (tmp_path / f"{name}.yaml").write_text(config.dump(stage))
    recipe = {"output": str(runs), "stages": {name: {"config": f"{name}.yaml"} for name in stages}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))

    def command(*arguments: str | Path) -> None:
        assert main([str(argument) for argument in arguments]) == 0

    def train(*skipped: str) -> None:
        command(
            "train",
            "--config",
            tmp_path / "recipe.yaml",
            *(part for stage in skipped for part in (f"--{stage}.skip", "true")),
        )

    train("supervised", "distillation")
    model = runs / "unsupervised" / "model"
    command("mine", "--model", model, "--pairs", tmp_path / "pairs.jsonl", "--out", mined, "--num-negatives", "3")
    train("distillation")
    teacher = runs / "supervised" / "model"
    command("score", "--mined", mined, "--teacher", teacher, "--bm25-weight", "0.2", "--out", scored)
    train()

    final = ColBERT.from_pretrained(runs / "distillation" / "model")
    held_out = from_pairs("pairs", [query for query, _ in pairs()], [document for _, document in pairs()])
    assert evaluate(final, held_out)["ndcg@10"] > 0.9
    for name, stage in stages.items():
        assert json.loads((runs / name / "result.json").read_text())["steps"] == stage.max_steps
