"""The nano recipe in miniature: its data, its stages one after the other, the model's card, and the packaged model."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from programs import program

from colbertz import ColBERT
from colbertz.cli import main
from colbertz.cli.options import DEFAULT_MODEL
from colbertz.models.checkpoint.hub import resolve
from colbertz.recipes.nano import run, stages
from colbertz.recipes.nano.cloze import cloze_pairs
from colbertz.recipes.nano.prepare import prepare

STAGE = """
output: unused
model: {{{start} query_prompt: "search_query: ", document_prompt: "search_document: ", query_length: 24,
  document_length: 40}}
data: {{train: unused}}
loss: {{kind: {kind}}}
optim: {{lr: 1e-3}}
batch_size: 8
max_steps: 3
log_every: 1
{more}
"""
SIZES = "tokenizer: x.json, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, embedding_dim: 16, "
SIZES += "do_query_expansion: false, "
BOXES = [
    f"the {colour} {thing}" for colour in ("red", "green", "blue", "grey") for thing in ("box", "cup", "hat", "jug")
]


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_collection(folder: Path, questions: dict[str, list[int]], documents: list[str]) -> None:
    """A BEIR directory with the questions of each split, whose answers are documents of these numbers."""
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)])
    asked = [(split, number) for split, numbers in questions.items() for number in numbers]
    write_lines(
        folder / "queries.jsonl",
        [{"_id": f"{split}{n}", "text": f"{split}: where is {BOXES[n]}"} for split, n in asked],
    )
    (folder / "qrels").mkdir()
    for split, numbers in questions.items():
        rows = [f"{split}{number}\td{number}\t1" for number in numbers]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Pairs, one of which is judged; a collection with training questions; one of long documents; small stages."""
    pairs = [{"query": f"find {box}", "document": f"{box} stands on shelf {i}"} for i, box in enumerate(BOXES)]
    answers = [f"somebody put {box} into room {i}" for i, box in enumerate(BOXES)]
    pairs.append({"query": "Dev:  where is the RED box", "document": "a question that is judged"})
    pairs.append({"query": "some title", "document": answers[3]})
    write_lines(tmp_path / "pairs" / "shelves.jsonl.gz", pairs)
    write_lines(tmp_path / "pairs" / "more.jsonl", pairs[:8])
    write_collection(tmp_path / "rooms", {"train": list(range(4, 12)), "dev": [0, 3]}, answers)
    talk = [
        " ".join(f"word{i} and on" for _ in range(200)) + f" at last {box} " + "so long " * 300
        for i, box in enumerate(BOXES)
    ]
    write_collection(tmp_path / "talks", {"train": [5, 6], "dev": [1]}, talk)
    (tmp_path / "configs").mkdir()
    for name, kind, start, more in (
        ("mlm", "mlm", SIZES, ""),
        ("unsupervised", "contrastive", SIZES, "minibatch_tokens: 64"),
        ("supervised", "contrastive", "init: x, ", ""),
        ("distillation", "distillation", "init: x, ", ""),
    ):
        (tmp_path / "configs" / f"{name}.yaml").write_text(STAGE.format(start=start, kind=kind, more=more))
    return tmp_path


def command(world: Path, *more: str) -> list[str]:
    places = {"--pairs": "pairs", "--out": "run", "--configs": "configs"}
    words = [word for option, name in places.items() for word in (option, str(world / name))]
    return ["nano", *words, "--no-python", "--collections", str(world / "rooms"), str(world / "talks"), *more]


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_judged_is_not_trained_on(world: Path) -> None:
    prepare(world / "pairs", [world / "rooms"], world / "data", python=False)
    found = rows_of(world / "data/pairs/shelves.jsonl")
    assert len(found) == len(BOXES)
    assert {row["query"] for row in found} == {f"find {box}" for box in BOXES}
    questions = [row["query"] for row in rows_of(world / "data/supervised.jsonl")]
    assert sum(question.startswith("train: ") for question in questions) == 8
    assert not any(question.startswith("dev: ") for question in questions)
    assert json.loads((world / "data/data.json").read_text())["counts"] == {"more": 8, "shelves": 16, "rooms": 8}


def test_questions_and_titled_answers_that_are_judged_are_not_trained_on(world: Path) -> None:
    """A training question may be a judged one too, or have a judged answer; pairs may lack an answer's title."""
    corpus = [{"_id": f"d{i}", "title": "On boxes", "text": f"{box} is here"} for i, box in enumerate(BOXES)]
    write_lines(world / "titled" / "corpus.jsonl", corpus)
    queries = {"a": "asked twice", "b": "ASKED  twice", "c": "asked once", "d": "judged answer", "e": "two answers"}
    write_lines(world / "titled" / "queries.jsonl", [{"_id": id, "text": text} for id, text in queries.items()])
    (world / "titled" / "qrels").mkdir()
    (world / "titled" / "qrels" / "test.tsv").write_text("a\td1\t1\na\td9\t0\n")
    train = "b\td2\t1\nc\td3\t1\nd\td1\t1\ne\td4\t1\ne\td9\t2\ne\td5\t0\n"
    (world / "titled" / "qrels" / "train.tsv").write_text(train)
    write_lines(world / "pairs" / "same.jsonl", [{"query": "untitled", "document": f"{BOXES[1]} is here"}])
    prepare(world / "pairs", [world / "titled"], world / "data", python=False, judged_split="test")
    asked = [(row["query"], row["document"]) for row in rows_of(world / "data/supervised.jsonl")]
    own = [pair for pair in asked if pair[1].startswith("On boxes")]
    assert own == [(queries["c"], f"On boxes {BOXES[3]} is here")] + [
        (queries["e"], f"On boxes {BOXES[i]} is here") for i in (4, 9)
    ]
    assert "same" not in json.loads((world / "data/data.json").read_text())["counts"]


def test_rows_without_text_are_left_out_and_counted(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{"query": "a title", "document": " "}, {"query": "half \ud83d", "document": "text"}]
    write_lines(
        world / "pairs" / "odd.jsonl", [*bad, {"query": "\u2028", "document": "text"}, {"query": "q", "document": "d"}]
    )
    prepare(world / "pairs", [], world / "data", python=False)
    assert rows_of(world / "data/pairs/odd.jsonl") == [{"query": "q", "document": "d"}]
    assert "odd.jsonl: 3 pairs are left out, with an empty text" in capsys.readouterr().out


def test_two_sources_of_one_name_are_refused(world: Path) -> None:
    write_lines(world / "pairs" / "wiki.en.jsonl", [{"query": "a", "document": "b"}])
    write_lines(world / "pairs" / "wiki.de.jsonl.gz", [{"query": "c", "document": "d"}])
    prepare(world / "pairs", [], world / "data", python=False)
    assert json.loads((world / "data/data.json").read_text())["counts"] | {"wiki.en": 1, "wiki.de": 1}
    for name in ("wiki.de.jsonl", "python.jsonl", "more-cloze.jsonl"):
        path = world / "pairs" / name
        write_lines(path, [{"query": "e", "document": "f"}])
        with pytest.raises(ValueError, match=rf"are named '{name.removesuffix('.jsonl')}'.* rename one"):
            prepare(world / "pairs", [], world / "other", python=True)
        path.unlink()
    with pytest.raises(ValueError, match="are named 'rooms'"):
        prepare(world / "pairs", [world / "rooms", world / "rooms"], world / "other", python=False)


def test_files_that_do_not_fill_a_batch_are_put_together(world: Path) -> None:
    prepare(world / "pairs", [], world / "data", python=False)  # more has 8 rows, shelves 18

    def sources(batch_size: int) -> list[str]:
        (world / "s.yaml").write_text(f"batch_size: {batch_size}")
        argument = stages.all_pairs(world / "data", world / "s.yaml").removeprefix("--data.train=")
        return [Path(source["path"]).name for source in yaml.safe_load(argument)]

    assert sources(8) == ["more.jsonl", "shelves.jsonl"]
    for batch_size in (10, 20, 26):
        assert sources(batch_size) == [f"small-{batch_size}.jsonl"]
        assert len(rows_of(world / f"data/small-{batch_size}.jsonl")) == 26
    write_lines(world / "data/pairs/tiny.jsonl", [{"query": "a", "document": "b"}] * 3)
    assert sources(11) == ["shelves.jsonl", "small-11.jsonl"]
    with pytest.raises(ValueError, match="29 pairs do not fill a batch of 30"):
        sources(30)


def test_a_row_of_the_teachers_may_have_any_end_of_a_line_in_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"query": f"q{i}", "document": f"before \u2028 after \x85 {i}"} for i in range(6)]
    (world / "mined.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    monkeypatch.setattr(stages, "_MOST_TAUGHT", 3)
    monkeypatch.setattr(stages, "_command", lambda *words: (world / "scored").mkdir())
    stages.teach(world / "model", world / "mined.jsonl", world / "scored")
    taught = (world / "taught-mined.jsonl").read_text("utf-8").split("\n")[:-1]
    assert [json.loads(line) for line in taught] == rows[::2]
    with pytest.raises(ValueError, match=r"has the scores of .*model, now the teacher is .*other"):
        stages.teach(world / "other", world / "mined.jsonl", world / "scored")


def test_of_pairs_with_one_query_the_later_stages_see_the_first(world: Path) -> None:
    paragraphs = [{"query": "History", "document": f"paragraph {i} of a history"} for i in range(5)]
    write_lines(world / "pairs" / "wiki.jsonl", paragraphs)
    prepare(world / "pairs", [], world / "data", python=False)
    assert len(rows_of(world / "data/pairs/wiki.jsonl")) == 5
    later = rows_of(world / "data/supervised.jsonl")
    assert [row for row in later if row["query"] == "History"] == paragraphs[:1]
    assert len({row["query"] for row in later}) == len(later)


def test_the_answer_in_a_long_document_is_the_window_that_has_it(world: Path) -> None:
    prepare(world / "pairs", [world / "talks"], world / "data", python=False)
    answers = {row["query"]: row["document"] for row in rows_of(world / "data/supervised.jsonl")}
    for number in (5, 6):
        window = answers[f"train: where is {BOXES[number]}"]
        assert len(window.split()) == 200
        assert BOXES[number] in window


def test_sentences_of_texts_are_questions() -> None:
    sentences = [" ".join(f"W{i}-{j}" for j in range(10)) + "." for i in range(4)]
    text = " ".join(sentences)
    pairs = [
        pair
        for seed in range(200)
        for pair in cloze_pairs([text, "One sentence alone, which has no rest.", text], seed)
    ]
    assert len(pairs) == 200
    asked, whole = set(), 0
    for query, document in pairs:
        number = int(query[1])
        words = sentences[number].split()
        assert [word for word in words if word in query.split()] == query.split()
        assert len(query.split()) >= 1
        asked.add(number)
        whole += document == text
        assert document in (text, " ".join(sentences[:number] + sentences[number + 1 :]))
    assert asked == {0, 1, 2, 3}
    assert 70 < whole < 130
    assert 5.5 < sum(len(query.split()) for query, _ in pairs) / len(pairs) < 9.5
    assert list(cloze_pairs([text], 3)) == list(cloze_pairs([text], 3))


def test_texts_of_several_sentences_have_pairs_of_their_own(world: Path) -> None:
    texts = [f"Here is shelf number {i} of all. {box.capitalize()} stands on it." for i, box in enumerate(BOXES)]
    write_lines(world / "pairs" / "long.jsonl", [{"query": f"what is on {t[:22]}", "document": t} for t in texts])
    write_collection(world / "walls", {"dev": [2]}, texts)
    prepare(world / "pairs", [world / "walls"], world / "data", python=False)
    found = rows_of(world / "data/pairs/long-cloze.jsonl")
    assert len(found) == len(texts[::2])  # of the 15 that nothing is judged by
    assert not any(texts[2].startswith(row["document"]) for row in found)
    assert not (world / "data/pairs/more-cloze.jsonl").exists()


def test_short_and_endless_sentences_are_no_questions() -> None:
    assert list(cloze_pairs(["Too short. And so is it.", "word " * 60 + "end. " + "Word " * 51 + "end."])) == []


def test_preparing_twice_gives_the_same_files(world: Path) -> None:
    for out in ("one", "two"):
        prepare(world / "pairs", [world / "rooms"], world / out, python=False)
    found = sorted((world / "one").rglob("*.json*"))
    assert len(found) == 5
    for path in found:
        assert path.read_bytes() == (world / "two" / path.relative_to(world / "one")).read_bytes()


def test_data_of_other_texts_is_not_taken_for_what_was_asked_for(world: Path) -> None:
    prepare(world / "pairs", [world / "rooms"], world / "data", python=False)
    prepare(world / "pairs", [world / "rooms"], world / "data", python=False)
    with pytest.raises(ValueError, match=r"collections were .*rooms.*, now"):
        prepare(world / "pairs", [], world / "data", python=False)


def test_texts_that_changed_are_not_taken_for_the_old_ones(world: Path) -> None:
    prepare(world / "pairs", [world / "rooms"], world / "data", python=False)
    with (world / "rooms/qrels/dev.tsv").open("a") as file:
        file.write("dev1\td1\t1\n")
    with pytest.raises(ValueError, match=r"data holds data made of other texts \(bytes were "):
        prepare(world / "pairs", [world / "rooms"], world / "data", python=False)


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
    write_lines(world / "empty" / "bad.jsonl", [{"query": "only half"}])
    assert main(["nano", "--pairs", str(world / "empty"), "--out", str(world / "run")]) == 2
    assert "bad.jsonl, line 1" in capsys.readouterr().err
    assert main(["nano", "--pairs", str(world / "nowhere"), "--out", str(world / "run")]) == 2
    assert "nowhere" in capsys.readouterr().err


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
    for said in (
        "| shelves | 16 |",
        "| rooms | 8 |",
        "--seed 0 --no-python --mlm",
        "| talks |",
        "| talks, 40 tokens |",
        "plaid",
    ):
        assert said in card

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
    recipe = run.parse(command(world)[1:])
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
    own = {row["collection"]: row for row in rows if row["contender"] == bench.FINISHED and row["search"] == "exact"}
    values = json.loads((world / "run/distillation/judged.json").read_text())["rooms"]
    assert own["rooms"]["nDCG@10"] == pytest.approx(sum(values["exact"].values()) / len(values["exact"]))
    assert own["rooms"]["minus BM25"] == pytest.approx(
        own["rooms"]["nDCG@10"] - sum(values["BM25"].values()) / len(values["BM25"])
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


# -- the packaged model ----------------------------------------------------------------------------------------------


def test_the_packaged_model_is_small_and_says_what_it_is() -> None:
    folder = resolve(DEFAULT_MODEL)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 15e6
    card = (folder / "README.md").read_text()
    for said in ("CC BY-SA", "--pairs", "--seed", "nDCG@10"):
        assert said in card
    assert (folder / "modules.json").is_file()


def test_the_packaged_model_finds_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its name, from any directory, with no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ColBERT.from_pretrained(DEFAULT_MODEL)
    texts = [
        "The mitochondrion produces most of the energy of a cell.",
        "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()",
        "We propose a neural model for machine translation that needs no parallel text.",
        "The committee agreed to lower the budget of the remote control's casing.",
    ]
    queries = [
        "what makes energy in cells",
        "read a file line by line",
        "unsupervised translation",
        "cost of the remote",
    ]
    scores = model.similarity(model.encode_query(queries), model.encode_document(texts))
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
