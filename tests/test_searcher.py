"""Texts in, hits out, and an index that knows its model."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import ORDINARY

from colbertz import ColBERT, Document, Index, Searcher, SearchOptions
from colbertz.errors import UserError


def test_search_is_encoding_and_index_search(checkpoint: Path, tmp_path: Path) -> None:
    searcher = Searcher.build(tmp_path / "index", checkpoint, ORDINARY)
    model = ColBERT.from_pretrained(checkpoint)
    queries = ["capital of France", "a lazy dog"]
    embeddings = model.encode_query(queries)
    scores = model.similarity(embeddings, model.encode_document(ORDINARY))
    expected = searcher.index.search(embeddings, k=len(ORDINARY), exact=True)
    for hits, others, row in zip(searcher.search(queries, k=len(ORDINARY)), expected, scores, strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in others]
        # Codes of 4 bits, trained on a few hundred tokens, change a score by a few percent.
        assert [hit.score for hit in hits] == pytest.approx([row[int(hit.id)].item() for hit in hits], rel=0.05)
        assert [hit.text for hit in hits] == [ORDINARY[int(hit.id)] for hit in hits]
    assert searcher.search(queries[0]) == searcher.search(queries)[0], "a string gets one list"


def test_texts_that_are_cut_are_counted_once_for_all_parts(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ColBERT.from_pretrained(checkpoint, document_length=32)
    long = "a word and another " * 20
    texts = [long, "short", long, long, "short", long]
    Searcher.build(tmp_path / "index", model, texts, show_progress=False, documents_at_once=2)
    assert [record.getMessage() for record in caplog.records] == ["4 texts were cut to 32 tokens (document_length)"]
    caplog.clear()

    def failing() -> Iterator[str]:
        yield from [long, long, "short"]
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        Searcher.build(tmp_path / "other", model, failing(), show_progress=False, documents_at_once=2)
    assert [record.getMessage() for record in caplog.records] == ["2 texts were cut to 32 tokens (document_length)"]
    caplog.clear()
    model.encode_document([long])
    assert [record.getMessage() for record in caplog.records] == ["1 of 1 texts was cut to 32 tokens (document_length)"]


def test_texts_are_added(checkpoint: Path, tmp_path: Path) -> None:
    searcher = Searcher.build(tmp_path / "index", checkpoint, ORDINARY)
    searcher.add(["Zebras have stripes."], ids=["zebra"], metadata=[{"kind": "animal"}])
    assert searcher.search("Zebras have stripes.", k=1)[0].id == "zebra"
    assert [hit.id for hit in searcher.search("a lazy dog", where="kind = 'animal'")] == ["zebra"]
    with pytest.raises(ValueError, match="already has a document 'zebra'"):
        searcher.add(["Zebras are striped."], ids=["zebra"])
    searcher.add(["Zebras are striped."], ids=["zebra"], on_duplicate="replace")
    assert searcher.index.get("zebra").text == "Zebras are striped."
    assert len(searcher.index) == len(ORDINARY) + 1
    assert [hit.id for hit in searcher.search("striped", k=1, hybrid=True, text_weight=1)] == ["zebra"]
    with pytest.raises(TypeError, match="one string"):
        searcher.add("one text")


def test_documents_are_updated_deleted_and_seen_after_a_refresh(checkpoint: Path, tmp_path: Path) -> None:
    searcher = Searcher.build(tmp_path / "index", checkpoint, ORDINARY)
    other = Searcher.open(tmp_path / "index")
    searcher.update(["Zebras have stripes."], ids=["3"], metadata=[{"kind": "animal"}])
    assert searcher.index.get("3") == Document("3", "Zebras have stripes.", {"kind": "animal"})
    assert searcher.search("Zebras have stripes.", k=1)[0].id == "3"
    assert other.index.get("3").text == ORDINARY[3], "an open index is a snapshot"
    assert other.refresh() and not other.refresh()
    assert other.search("Zebras have stripes.", k=1)[0].id == "3"
    assert searcher.delete(["3", "0"]) == 2
    assert "3" not in searcher.index and len(searcher.index) == len(ORDINARY) - 2
    with pytest.raises(KeyError, match="no document '3'"):
        searcher.update(["again"], ids=["3"])
    with pytest.raises(TypeError, match="one string"):
        searcher.update("one text", ids=["1"])


def test_options_are_given_by_name_or_as_an_object(checkpoint: Path, tmp_path: Path) -> None:
    searcher = Searcher.build(tmp_path / "index", checkpoint, ORDINARY)
    ids = ["1", "4", "6"]
    options = SearchOptions(subset=ids, exact=True)
    hits = searcher.search("a lazy dog", 2, options)
    assert hits == searcher.search("a lazy dog", k=2, subset=ids, exact=True)
    assert len(hits) == 2 and {hit.id for hit in hits} <= set(ids)
    assert searcher.search("a lazy dog", 2, options, subset=["0"])[0].id == "0"
    per_query = searcher.search(["a lazy dog", "a capital"], options=options, subset=[["5"], None])
    assert [len(hits) for hits in per_query] == [1, 10]
    assert searcher.search(["a lazy dog"], 5, options, hybrid=True)[0] == searcher.search(
        "a lazy dog", 5, hybrid=True, subset=ids, exact=True
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'probes'"):
        searcher.search("a lazy dog", probes=3)  # type: ignore[call-overload]


def test_explain_sums_up_to_the_score(checkpoint: Path, tmp_path: Path) -> None:
    searcher = Searcher.build(tmp_path / "index", checkpoint, ORDINARY)
    hit = searcher.search("a lazy dog", k=1)[0]
    explanation = searcher.explain("a lazy dog", hit.id)
    assert explanation.score == pytest.approx(hit.score, rel=1e-4)
    assert "".join(match.query_token for match in explanation.matches if match.kind == "text") == "alazydog"
    with pytest.raises(KeyError, match="no document 'nobody'"):
        searcher.explain("a lazy dog", "nobody")
    pooled = Searcher.build(tmp_path / "pooled", checkpoint, ORDINARY, pool_factor=2)
    with pytest.raises(ValueError, match="it was pooled"):
        pooled.explain("a lazy dog", max(range(len(ORDINARY)), key=lambda i: len(ORDINARY[i])).__str__())


@pytest.mark.parametrize("pool_factor", [0, -1, 2.5, 2.0, float("nan"), "2", None, True])
def test_a_pool_factor_that_is_no_positive_integer(checkpoint: Path, tmp_path: Path, pool_factor: Any) -> None:
    sentence = "pool_factor must be an integer of at least 1, got "
    with pytest.raises(UserError, match=sentence):
        Searcher.build(tmp_path / "new", checkpoint, iter(ORDINARY), pool_factor=pool_factor)
    assert not (tmp_path / "new").exists()
    searcher = Searcher.build(tmp_path / "index", checkpoint, ORDINARY[:3])
    with pytest.raises(UserError, match=sentence):
        searcher.add(ORDINARY[3:4], ids=["new"], pool_factor=pool_factor)
    with pytest.raises(UserError, match=sentence):
        searcher.update(ORDINARY[3:4], ids=["0"], pool_factor=pool_factor)
    assert searcher.index.get("0").text == ORDINARY[0]
    assert len(searcher.index) == 3


def test_a_pooled_index_scores_as_maxsim_of_the_pooled_embeddings(checkpoint: Path, tmp_path: Path) -> None:
    searcher = Searcher.build(tmp_path / "index", checkpoint, ORDINARY, pool_factor=2, nbits=8)
    query = searcher.model.encode_query("a lazy dog")
    scores = searcher.model.similarity(query, searcher.model.encode_document(ORDINARY, pool_factor=2))[0]
    hits = searcher.search("a lazy dog", k=len(ORDINARY), exact=True)
    assert len(hits) == len(ORDINARY)
    for hit in hits:
        # Codes trained on a few hundred tokens change a score by a percent.
        assert hit.score == pytest.approx(float(scores[int(hit.id)]), rel=0.02)


def test_an_interrupted_build_encodes_only_the_rest(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoded = ColBERT.from_pretrained(checkpoint), []
    encode = model.encode

    def counting(texts: Any, side: Any, stop_at: int | None = None, **options: Any) -> Any:
        if texts[0] in ORDINARY:  # not the text of the index's fingerprint
            if len(encoded) == stop_at:
                raise KeyboardInterrupt
            encoded.extend(texts)
        return encode(texts, side, **options)

    monkeypatch.setattr(model, "encode", partial(counting, stop_at=12))
    with pytest.raises(KeyboardInterrupt):
        Searcher.build(tmp_path / "index", model, ORDINARY, documents_at_once=1, chunk_tokens=40)
    first = list(encoded)
    encoded.clear()
    monkeypatch.setattr(model, "encode", counting)
    resumed = Searcher.build(tmp_path / "index", model, ORDINARY, documents_at_once=1, chunk_tokens=40)
    assert len(encoded) < len(ORDINARY), "what was stored is not encoded again"
    assert encoded[-1] == ORDINARY[-1]
    assert len(first) > 3
    monkeypatch.undo()
    whole = Searcher.build(tmp_path / "whole", checkpoint, ORDINARY)
    queries = ["capital of France", "a lazy dog"]
    for hits, others in zip(resumed.search(queries), whole.search(queries), strict=True):
        assert [(hit.id, hit.text) for hit in hits] == [(hit.id, hit.text) for hit in others]


def test_texts_ids_and_metadata_may_be_generators(checkpoint: Path, tmp_path: Path) -> None:
    whole = Searcher.build(tmp_path / "whole", checkpoint, ORDINARY)
    streamed = Searcher.build(
        tmp_path / "streamed",
        checkpoint,
        iter(ORDINARY),
        ids=(f"id{i}" for i in range(len(ORDINARY))),
        metadata=({"line": i} for i in range(len(ORDINARY))),
        documents_at_once=3,
    )
    expected, hits = whole.search("late interaction", k=20), streamed.search("late interaction", k=20)
    assert [hit.text for hit in hits] == [hit.text for hit in expected]
    assert [hit.id for hit in hits] == [f"id{hit.id}" for hit in expected]
    assert [hit.metadata["line"] for hit in hits] == [int(hit.id) for hit in expected]


def test_whole_documents_are_encoded_and_stored(checkpoint: Path, tmp_path: Path) -> None:
    documents = [Document(f"id{i}", text, {"line": i}) for i, text in enumerate(ORDINARY)]
    searcher = Searcher.build(tmp_path / "index", checkpoint, iter(documents), documents_at_once=3)
    assert list(searcher.index) == documents
    for options in ({"ids": ["a"] * len(documents)}, {"metadata": [{}] * len(documents)}):
        with pytest.raises(ValueError, match="whole documents have their own ids and metadata"):
            Searcher.build(tmp_path / "other", checkpoint, documents, **options)
    with pytest.raises(ValueError, match=r"document 0 \('x'\) has no text to encode"):
        Searcher.build(tmp_path / "other", checkpoint, [Document("x")])


@pytest.mark.parametrize(("num_ids", "message"), [(1, "fewer ids than texts: .* after 1"), (9, "fewer texts than ids")])
def test_as_many_ids_as_texts(num_ids: int, message: str, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Searcher.build(tmp_path / "index", checkpoint, ORDINARY[:3], ids=[f"id{i}" for i in range(num_ids)])
    assert not (tmp_path / "index").exists()


def test_the_model_beside_the_index_is_found_after_both_are_moved(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "here/model")
    answers = Searcher.build(tmp_path / "here/index", tmp_path / "here/model", ORDINARY).search("a lazy dog")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Searcher.open(tmp_path / "there/index")
    assert moved.index.model == "../model"
    assert moved.search("a lazy dog") == answers


def test_the_model_inside_the_index_and_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    index = tmp_path / "one/index"
    Searcher.build(index, checkpoint, ORDINARY)
    assert Index.open(index).model == str(checkpoint)
    shutil.copytree(checkpoint, index / "model")
    assert Searcher.build(index, index / "model", ORDINARY, overwrite=True).index.model == "./model"
    Searcher.open(index)


def test_a_folder_wins_over_the_name_of_the_packaged_model(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder called colbertz/nano was ignored. An index names the packaged model only by its name."""
    monkeypatch.chdir(tmp_path)
    packaged = ColBERT.from_pretrained("colbertz/nano")
    Searcher.build("packaged", "colbertz/nano", ["a"])
    shutil.copytree(checkpoint, "colbertz/nano")
    model = ColBERT.from_pretrained("colbertz/nano")
    assert model.embedding_dim != packaged.embedding_dim
    Searcher.build("own", "colbertz/nano", ["a"])
    assert Searcher.open("packaged").model.embedding_dim == packaged.embedding_dim
    assert Index.open("own").model == "../colbertz/nano"
    assert Searcher.open("own").model.embedding_dim == model.embedding_dim


def test_a_missing_model_is_named(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    Searcher.build(tmp_path / "index", tmp_path / "model", ORDINARY)
    (tmp_path / "model").rename(tmp_path / "renamed")
    with pytest.raises(FileNotFoundError, match=rf"built with the model in {tmp_path}/model, which is not there"):
        Searcher.open(tmp_path / "index")
    Searcher.open(tmp_path / "index", tmp_path / "renamed")


def test_a_model_in_memory_has_to_be_given_again_unless_located(checkpoint: Path, tmp_path: Path) -> None:
    model = ColBERT.from_pretrained(checkpoint)
    Searcher.build(tmp_path / "nameless", model, ORDINARY)
    with pytest.raises(ValueError, match="does not say which model it was built with"):
        Searcher.open(tmp_path / "nameless")
    assert Searcher.open(tmp_path / "nameless", model).model is model
    Searcher.build(tmp_path / "named", model, ORDINARY, location=checkpoint)
    Searcher.open(tmp_path / "named")


def test_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    Searcher.build(tmp_path / "index", checkpoint, ORDINARY)
    retrained = ColBERT.from_pretrained(checkpoint)
    weight = retrained.projections[0].linear.weight.data
    weight += 0.1 * weight.std() * torch.randn_like(weight)
    with pytest.raises(ValueError, match=r"not the one that the index .* have cosine 0\.\d+; give the right model"):
        Searcher.open(tmp_path / "index", retrained)
    with pytest.raises(ValueError, match="not the one that the index"):
        Searcher.open(tmp_path / "index", ColBERT.from_pretrained(checkpoint, document_prefix=""))
    with pytest.raises(ValueError, match=r"embeddings of dimension 8 and the index .* of 16"):
        Searcher.open(tmp_path / "index", ColBERT.from_pretrained(checkpoint, embedding_dim=8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_same_model_in_half_precision_is_accepted(dtype: str, checkpoint: Path, tmp_path: Path) -> None:
    Searcher.build(tmp_path / "index", checkpoint, ORDINARY)
    Searcher.open(tmp_path / "index", dtype=getattr(torch, dtype))


def test_an_index_without_fingerprint_takes_any_model_of_its_dimension(checkpoint: Path, tmp_path: Path) -> None:
    model = ColBERT.from_pretrained(checkpoint)
    Index.build(tmp_path / "index", model.encode_document(ORDINARY), texts=ORDINARY)
    assert Searcher.open(tmp_path / "index", model).search("a lazy dog", k=1)[0].text in ORDINARY


def test_a_string_is_not_a_list_of_texts(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got one string"):
        Searcher.build(tmp_path / "index", checkpoint, "one text")
    assert not (tmp_path / "index").exists()


def test_empty_texts_are_counted_and_empty_queries_refused(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    searcher = Searcher.build(tmp_path / "index", checkpoint, ["one", "", " \n", "two"])
    assert caplog.messages == ["2 texts are empty"]
    searcher.add(["", "three"])
    searcher.update([" "], ids=["0"])
    assert caplog.messages == ["2 texts are empty", "1 text is empty", "1 text is empty"]
    for options in ({}, {"hybrid": True}, {"exact": True}):
        with pytest.raises(UserError, match=r"\Aquery is empty; give it words"):
            searcher.search("", **options)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"\Aquery 1 is empty"):
            searcher.search(["one", " \t"], **options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="query is empty"):
        searcher.index.search_text([""])


class Counting:
    """A stand-in for `ColBERT.encode` that notes the documents that are encoded."""

    def __init__(self, model: ColBERT) -> None:
        self.texts: list[str] = []
        self._encode = model.encode

    def __call__(self, texts: Any, side: Any, **options: Any) -> Any:
        if side == "document":
            self.texts += [text for text in texts if text in ORDINARY]  # without the text of the fingerprint
        return self._encode(texts, side, **options)


BAD = {"half": "half \ud83d", "missing": None, "number": 7}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_text_is_named_from_the_start_of_the_input(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    """The number was that within a batch: document 4,500 was "text 404"."""
    documents = [Document(f"id{i}", text, {}, f"corpus.jsonl, line {i + 1}") for i, text in enumerate(ORDINARY)]
    documents[5] = Document("bad", BAD[kind], {}, "corpus.jsonl, line 6")  # type: ignore[arg-type]
    with pytest.raises((UserError, TypeError), match=r"^document 5 \('bad', corpus.jsonl, line 6\)"):
        Searcher.build(tmp_path / "index", checkpoint, documents, documents_at_once=2)
    texts = [document.text for document in documents]
    with pytest.raises((UserError, TypeError), match=r"^document 5 \('5'\)"):
        Searcher.build(tmp_path / "index", checkpoint, texts, documents_at_once=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BAD)
def test_bad_texts_can_be_skipped(
    kind: str, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts: list[Any] = list(ORDINARY[:6])
    texts[1] = texts[3] = BAD[kind]
    metadata = [{"line": i} for i in range(6)]
    searcher = Searcher.build(
        tmp_path / "index", checkpoint, texts, metadata=metadata, on_bad_text="skip", documents_at_once=2
    )
    kept = [0, 2, 4, 5]
    assert list(searcher.index) == [Document(str(i), ORDINARY[i], {"line": i}) for i in kept]
    (warning,) = caplog.messages
    assert warning.startswith("2 documents were skipped; the first: document 1 ('1')")
    for i in kept:
        assert searcher.search(ORDINARY[i], k=1)[0].id == str(i)

    caplog.clear()
    ids = [f"new{i}" for i in range(6)]
    with pytest.raises((UserError, TypeError), match="document 1"):
        searcher.add(texts, ids=ids)
    assert len(searcher.index) == 4
    searcher.add(texts, ids=ids, metadata=metadata, on_bad_text="skip")
    assert searcher.index.get("new4") == Document("new4", ORDINARY[4], {"line": 4})
    assert len(searcher.index) == 8
    assert caplog.messages[0].startswith("2 documents were skipped")
    with pytest.raises(UserError, match="on_bad_text must be"):
        searcher.add(texts, ids=ids, on_bad_text="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("mistake", ["text", "id", "interrupt"])
def test_nothing_is_encoded_again_after_an_abort(
    mistake: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was encoded since the last complete chunk was lost, and all of it if there was only one."""
    model = ColBERT.from_pretrained(checkpoint)
    counting = Counting(model)
    monkeypatch.setattr(model, "encode", counting)
    good = [Document(f"id{i}", text) for i, text in enumerate(ORDINARY)]
    whole = Searcher.build(tmp_path / "whole", model, good)
    counting.texts.clear()

    def documents() -> Iterator[Document]:
        yield from good[:7]
        if mistake == "interrupt":
            raise KeyboardInterrupt
        yield Document("bad", "half \ud83d") if mistake == "text" else Document("id1", "the same id")
        yield from good[7:]

    with pytest.raises((UserError, KeyboardInterrupt)):
        Searcher.build(tmp_path / "index", model, documents(), documents_at_once=2)
    assert len(counting.texts) == 6
    resumed = Searcher.build(tmp_path / "index", model, good, documents_at_once=2)
    assert counting.texts == ORDINARY
    arrays = list(whole.index.path.rglob("*.npy"))
    assert arrays
    for path in arrays:
        assert (resumed.index.path / path.relative_to(whole.index.path)).read_bytes() == path.read_bytes()
