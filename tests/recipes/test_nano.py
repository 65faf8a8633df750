"""The nano recipe in miniature: its stages one after the other, and the model's card."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from json_lines import read_rows, write_rows
from nano_world import command
from programs import program

from colbertz import ColBERT
from colbertz.cli import main
from colbertz.recipes.nano import stages
from colbertz.recipes.nano.prepare import prepare
from colbertz.recipes.nano.settings import Settings, command_line, shipped_configs


def test_files_that_do_not_fill_a_batch_are_put_together(world: Path) -> None:
    prepare(world / "pairs", [], world / "data", python=False)  # more has 8 rows, shelves 18

    def sources(batch_size: int) -> list[str]:
        (world / "s.yaml").write_text(f"batch_size: {batch_size}")
        argument = stages.all_pairs(world / "data", world / "s.yaml").removeprefix("--data.train=")
        return [Path(source["path"]).name for source in yaml.safe_load(argument)]

    assert sources(8) == ["more.jsonl", "shelves.jsonl"]
    for batch_size in (10, 20, 26):
        assert sources(batch_size) == [f"small-{batch_size}.jsonl"]
        assert len(read_rows(world / f"data/small-{batch_size}.jsonl")) == 26
    write_rows(world / "data/pairs/tiny.jsonl", [{"query": "a", "document": "b"}] * 3)
    assert sources(11) == ["shelves.jsonl", "small-11.jsonl"]
    with pytest.raises(ValueError, match="29 pairs do not fill a batch of 30"):
        sources(30)


def test_a_row_of_the_teachers_may_have_any_end_of_a_line_in_it(world: Path, checkpoint: Path) -> None:
    pytest.importorskip("bm25s")
    rows = [{"query": f"q{i}", "document": f"before \u2028 after \x85 {i}", "negatives": ["other"]} for i in range(6)]
    (world / "mined.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    stages.teach(checkpoint, world / "mined.jsonl", world / "scored", most_taught=3)
    taught = (world / "taught-mined.jsonl").read_text("utf-8").split("\n")[:-1]
    assert [json.loads(line) for line in taught] == rows[::2]
    with pytest.raises(ValueError, match=r"has the scores of .*tiny, now the teacher is .*other"):
        stages.teach(world / "other", world / "mined.jsonl", world / "scored")


def test_what_is_left_of_a_step_that_was_removed_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bm25s")
    (world / "run").mkdir()
    (world / "run/mined.jsonl").touch()
    assert main(command(world)) == 2
    assert "mined.jsonl was made of" in capsys.readouterr().err
    assert main([*command(world), "--configs", str(world)]) == 2
    assert f"there is no {world}/unsupervised.yaml, which the recipe needs" in capsys.readouterr().err


def test_a_folder_without_pairs_and_a_bad_row_are_named(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "empty").mkdir()
    assert main(["nano", "--pairs", str(world / "empty"), "--out", str(world / "run")]) == 2
    assert "holds no .jsonl or .jsonl.gz file" in capsys.readouterr().err
    write_rows(world / "empty" / "bad.jsonl", [{"query": "only half"}])
    assert main(["nano", "--pairs", str(world / "empty"), "--out", str(world / "run")]) == 2
    assert "bad.jsonl, line 1" in capsys.readouterr().err
    assert main(["nano", "--pairs", str(world / "nowhere"), "--out", str(world / "run")]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "--pairs here --seed 0",
        "--pairs 'my pairs' --seed 3 --no-python --mlm --teacher t --configs c --split test --collections a b",
    ],
)
def test_the_command_of_the_card_is_what_was_typed(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Settings] = []
    monkeypatch.setattr("colbertz.recipes.nano.run.run", made.append)
    assert main(["nano", *shlex.split(words), "--out", "elsewhere"]) == 0
    assert command_line(made[0]) == f"OMP_NUM_THREADS={torch.get_num_threads()} colbertz nano {words}"
    assert made[0].out == Path("elsewhere")


def test_configs_given_by_their_default_are_not_in_the_command() -> None:
    assert "--configs" not in command_line(Settings(Path("pairs"), configs=shipped_configs()))


def test_the_whole_recipe(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bm25s")
    assert main(command(world, "--mlm")) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    for name in ("mlm", "unsupervised", "supervised", "distillation"):
        assert (world / "run" / name / "result.json").is_file()
    assert "rooms" in out and "talks" in out and "plaid" in out and "BM25" in out

    model = ColBERT.from_pretrained(world / "run/model")
    trained = ColBERT.from_pretrained(world / "run/distillation/model")
    text = "the red box"
    torch.testing.assert_close(model.encode_query(text), trained.encode_query(text), atol=0.02, rtol=0)
    assert (model.settings.document_length, trained.settings.document_length) == (8192, 40)
    assert json.loads((world / "run/model/training.json").read_text())["document_length"] == 40
    weights = (world / "run/model/model.safetensors").stat().st_size
    assert weights < 0.6 * (world / "run/distillation/model/model.safetensors").stat().st_size
    card = (world / "run/model/README.md").read_text()
    for words in (
        "| shelves | 16 |",
        "| rooms | 8 |",
        "--seed 0 --no-python --mlm",
        "| talks |",
        "| talks, 40 tokens |",
        "plaid",
    ):
        assert words in card

    # The same command again does nothing, and says the same.
    before = {path: path.stat().st_mtime_ns for path in (world / "run").rglob("*")}
    assert main(command(world, "--mlm")) == 0
    assert {path: path.stat().st_mtime_ns for path in (world / "run").rglob("*")} == before
    assert capsys.readouterr().out.splitlines()[-8:] == out.splitlines()[-8:]

    # A stage that was removed is trained again, and what it made is judged and saved anew.
    shutil.rmtree(world / "run/distillation")
    (world / "run/model/README.md").unlink()
    assert main(command(world, "--mlm")) == 0
    assert (world / "run/model/README.md").read_text() == card


def test_the_arms_of_the_benchmark(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    bench = program("recipe", "benchmarks")
    arms, judged = ["all three", "supervised + distillation", "all three, no prompts in the last"], tmp_path / "judged"
    recipe = Settings(
        pairs=world / "pairs",
        collections=(world / "rooms", world / "talks"),
        out=world / "run",
        configs=world / "configs",
        python=False,
    )
    bench.judge_seed(judged / "seed0.json.gz", [*arms[:2], bench.FINISHED], recipe)
    first = (judged / "seed0.json.gz").read_bytes()
    bench.judge_seed(judged / "seed0.json.gz", [*arms[:2], bench.FINISHED], recipe)
    assert (judged / "seed0.json.gz").read_bytes() == first
    bench.judge_seed(judged / "seed0.json.gz", arms, recipe)
    (judged / "seed1.json.gz").write_bytes(first)  # a seed that lacks an arm

    rows = list(bench.rows(bench.all_judged(judged)))
    named = ["BM25", "BM25, identifiers split, stemmed", *(arm for arm in bench.ARMS if arm in arms), bench.FINISHED]
    assert list(dict.fromkeys(row["contender"] for row in rows)) == named
    assert {row["collection"] for row in rows} == {"rooms", "talks"}
    finished = {
        row["collection"]: row for row in rows if row["contender"] == bench.FINISHED and row["search"] == "exact"
    }
    values = json.loads((world / "run/distillation/judged.json").read_text())["rooms"]
    assert finished["rooms"]["nDCG@10"] == pytest.approx(sum(values["exact"].values()) / len(values["exact"]))
    assert finished["rooms"]["minus BM25"] == pytest.approx(
        finished["rooms"]["nDCG@10"] - sum(values["BM25"].values()) / len(values["BM25"])
    )
    assert {len(row["seeds"]) for row in rows if row["contender"] == arms[1]} == {2}
    assert {len(row["seeds"]) for row in rows if row["contender"] == arms[2]} == {1}
    assert all("p against all three" in row for row in rows if row["contender"] in arms[1:])
    settings = json.loads((world / "run/USd/model/config_sentence_transformers.json").read_text())
    assert settings["prompts"] == {"query": "", "document": ""}

    changed = (world / "configs/supervised.yaml").read_text().replace("max_steps: 3", "max_steps: 2")
    (world / "configs/supervised.yaml").write_text(changed)
    with pytest.raises(ValueError, match=r"seed0\.json\.gz was judged with other settings"):
        bench.judge_seed(judged / "seed0.json.gz", [*arms, "unsupervised"], recipe)


def test_prepare_stops_before_the_training(world: Path) -> None:
    assert main(command(world, "--prepare")) == 0
    assert sorted(path.name for path in (world / "run").iterdir()) == ["data"]
