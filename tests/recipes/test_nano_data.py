"""The nano recipe's data: what goes into it, and what is left out because the model is judged by it."""

import json
from pathlib import Path

import pytest
from json_lines import read_rows, write_rows
from nano_world import BOXES, write_collection

from colbertz.recipes.cloze import cloze_pairs
from colbertz.recipes.nano.prepare import prepare


def test_what_is_judged_is_not_trained_on(world: Path) -> None:
    prepare(world / "pairs", [world / "rooms"], world / "data", python=False)
    pairs = read_rows(world / "data/pairs/shelves.jsonl")
    assert len(pairs) == len(BOXES)
    assert {row["query"] for row in pairs} == {f"find {box}" for box in BOXES}
    questions = [row["query"] for row in read_rows(world / "data/supervised.jsonl")]
    assert sum(question.startswith("train: ") for question in questions) == 8
    assert not any(question.startswith("dev: ") for question in questions)
    assert json.loads((world / "data/data.json").read_text())["counts"] == {"more": 8, "shelves": 16, "rooms": 8}


def test_questions_and_titled_answers_that_are_judged_are_not_trained_on(world: Path) -> None:
    """A training question may be a judged one too, or have a judged answer; pairs may lack an answer's title."""
    corpus = [{"_id": f"d{i}", "title": "On boxes", "text": f"{box} is here"} for i, box in enumerate(BOXES)]
    write_rows(world / "titled" / "corpus.jsonl", corpus)
    queries = {"a": "asked twice", "b": "ASKED  twice", "c": "asked once", "d": "judged answer", "e": "two answers"}
    write_rows(world / "titled" / "queries.jsonl", [{"_id": id, "text": text} for id, text in queries.items()])
    (world / "titled" / "qrels").mkdir()
    (world / "titled" / "qrels" / "test.tsv").write_text("a\td1\t1\na\td9\t0\n")
    train = "b\td2\t1\nc\td3\t1\nd\td1\t1\ne\td4\t1\ne\td9\t2\ne\td5\t0\n"
    (world / "titled" / "qrels" / "train.tsv").write_text(train)
    write_rows(world / "pairs" / "same.jsonl", [{"query": "untitled", "document": f"{BOXES[1]} is here"}])
    prepare(world / "pairs", [world / "titled"], world / "data", python=False, judged_split="test")
    trained_on = [(row["query"], row["document"]) for row in read_rows(world / "data/supervised.jsonl")]
    titled = [pair for pair in trained_on if pair[1].startswith("On boxes")]
    assert titled == [(queries["c"], f"On boxes {BOXES[3]} is here")] + [
        (queries["e"], f"On boxes {BOXES[i]} is here") for i in (4, 9)
    ]
    assert "same" not in json.loads((world / "data/data.json").read_text())["counts"]


def test_rows_without_text_are_left_out_and_counted(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{"query": "a title", "document": " "}, {"query": "half \ud83d", "document": "text"}]
    write_rows(
        world / "pairs" / "odd.jsonl", [*bad, {"query": "\u2028", "document": "text"}, {"query": "q", "document": "d"}]
    )
    prepare(world / "pairs", [], world / "data", python=False)
    assert read_rows(world / "data/pairs/odd.jsonl") == [{"query": "q", "document": "d"}]
    assert "odd.jsonl: 3 pairs are left out, with an empty text" in capsys.readouterr().out


def test_two_sources_of_one_name_are_refused(world: Path) -> None:
    write_rows(world / "pairs" / "wiki.en.jsonl", [{"query": "a", "document": "b"}])
    write_rows(world / "pairs" / "wiki.de.jsonl.gz", [{"query": "c", "document": "d"}])
    prepare(world / "pairs", [], world / "data", python=False)
    assert json.loads((world / "data/data.json").read_text())["counts"] | {"wiki.en": 1, "wiki.de": 1}
    for name in ("wiki.de.jsonl", "python.jsonl", "more-cloze.jsonl"):
        path = world / "pairs" / name
        write_rows(path, [{"query": "e", "document": "f"}])
        with pytest.raises(ValueError, match=rf"are named '{name.removesuffix('.jsonl')}'.* rename one"):
            prepare(world / "pairs", [], world / "other", python=True)
        path.unlink()
    with pytest.raises(ValueError, match="are named 'rooms'"):
        prepare(world / "pairs", [world / "rooms", world / "rooms"], world / "other", python=False)


def test_of_pairs_with_one_query_the_later_stages_see_the_first(world: Path) -> None:
    paragraphs = [{"query": "History", "document": f"paragraph {i} of a history"} for i in range(5)]
    write_rows(world / "pairs" / "wiki.jsonl", paragraphs)
    prepare(world / "pairs", [], world / "data", python=False)
    assert len(read_rows(world / "data/pairs/wiki.jsonl")) == 5
    later = read_rows(world / "data/supervised.jsonl")
    assert [row for row in later if row["query"] == "History"] == paragraphs[:1]
    assert len({row["query"] for row in later}) == len(later)


def test_the_answer_in_a_long_document_is_the_window_that_has_it(world: Path) -> None:
    prepare(world / "pairs", [world / "talks"], world / "data", python=False)
    answers = {row["query"]: row["document"] for row in read_rows(world / "data/supervised.jsonl")}
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
    sentences_used, num_whole = set(), 0
    for query, document in pairs:
        sentence = int(query[1])
        words = sentences[sentence].split()
        assert [word for word in words if word in query.split()] == query.split()
        assert len(query.split()) >= 1
        sentences_used.add(sentence)
        num_whole += document == text
        assert document in (text, " ".join(sentences[:sentence] + sentences[sentence + 1 :]))
    assert sentences_used == {0, 1, 2, 3}
    assert 70 < num_whole < 130
    assert 5.5 < sum(len(query.split()) for query, _ in pairs) / len(pairs) < 9.5
    assert list(cloze_pairs([text], 3)) == list(cloze_pairs([text], 3))


def test_texts_of_several_sentences_have_pairs_of_their_own(world: Path) -> None:
    texts = [f"Here is shelf number {i} of all. {box.capitalize()} stands on it." for i, box in enumerate(BOXES)]
    write_rows(world / "pairs" / "long.jsonl", [{"query": f"what is on {t[:22]}", "document": t} for t in texts])
    write_collection(world / "walls", {"dev": [2]}, texts)
    prepare(world / "pairs", [world / "walls"], world / "data", python=False)
    questions = read_rows(world / "data/pairs/long-cloze.jsonl")
    assert len(questions) == len(texts[::2])  # of the 15 that nothing is judged by
    assert not any(texts[2].startswith(row["document"]) for row in questions)
    assert not (world / "data/pairs/more-cloze.jsonl").exists()


def test_short_and_endless_sentences_are_no_questions() -> None:
    assert list(cloze_pairs(["Too short. And so is it.", "word " * 60 + "end. " + "Word " * 51 + "end."])) == []


def test_preparing_twice_gives_the_same_files(world: Path) -> None:
    for out in ("one", "two"):
        prepare(world / "pairs", [world / "rooms"], world / out, python=False)
    paths = sorted((world / "one").rglob("*.json*"))
    assert len(paths) == 5
    for path in paths:
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
