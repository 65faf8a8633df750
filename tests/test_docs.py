"""The documentation: its Python and its commands run as they are printed, its links lead somewhere, and its generated
pages and pictures are what the scripts of tools/ write.

Blocks run on a small untrained checkpoint in place of a published one.
"""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from programs import program
from test_imports import FLOORS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from colbertz import ColBERT, Index, Searcher
from colbertz.cli import main, parse
from colbertz.kernels import cpu
from colbertz.models import Tokens

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Everything that a reader of the repository or of the site sees.
PAGES = sorted(
    [*DOCS.glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
)
PAGES.append(ROOT / "benchmarks/README.md")
MOST_WORDS = 700  # of the README, as `wc -w` counts


def name_of(page: Path) -> str:
    """The path of a page in the repository."""
    return str(page.relative_to(ROOT))


def blocks_of(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run_blocks(page: str, names: dict[str, object], replaced: dict[str, str], folder: Path = DOCS) -> dict[str, object]:
    """Run the Python blocks of a page one after the other, in one namespace, and return it."""
    blocks = blocks_of(folder / page, "python")
    assert blocks, f"{page} shows no Python"
    for block in blocks:
        for old, new in replaced.items():
            block = block.replace(old, new)
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_on_pages_can_be_parsed(page: Path) -> None:
    """Every option that a page shows exists. (`colbertz train` parses its own options when it runs.)"""
    for block in blocks_of(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|do |\$ )(?:colbertz|\S*python (search)\.py) (.+?)(?:; done)?$", line):
                arguments = shlex.split(found[2].partition(" < ")[0], comments=True)
                parse([found[1], *arguments] if found[1] else arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_have_no_conflict_markers(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith(("<<<<<<<", ">>>>>>>"))]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = page if not file else (page.parent / file).resolve()
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(path), f"{page.name} links to {target}, which has no such heading"


def test_the_readme_is_short_and_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS
    monkeypatch.chdir(tmp_path)
    names = run_blocks("README.md", {}, {}, ROOT)
    assert names["scores"].shape == (1, 2)
    assert sorted(hit.id for hit in names["hits"]) == ["b", "g", "y"]  # with the document that was added
    assert len(names["index"]) == 2


def test_the_first_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """All of the page, in order: the files that it shows, its commands, its Python."""
    monkeypatch.chdir(tmp_path)
    page = DOCS / "five-minutes.md"
    [rows] = blocks_of(page, "json")
    (tmp_path / "documents.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "notes/2024").mkdir(parents=True)
    (tmp_path / "notes/2024/ice.txt").write_text("Ice floats.", encoding="utf-8")
    for block in blocks_of(page, "bash"):
        for command in block.splitlines():
            name, *arguments = shlex.split(command, comments=True)
            assert name == "colbertz" and main(arguments) == 0, command
    assert '"id": "bread"' in capsys.readouterr().out
    names = run_blocks("five-minutes.md", {}, {})
    assert names["hit"].id in {"bread", "glacier", "modem"}
    assert json.loads((tmp_path / "notes.jsonl").read_text())["text"] == "Ice floats."
    assert sorted(names["searcher"].index.ids()) == ["bread", "glacier", "sourdough"]


def test_the_home_page_and_operating_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_blocks("index.md", {}, {})
    index = Index.build("my-index", names["documents"])
    run_blocks("operate.md", {}, {})
    assert Index.open("my-index.backup").get("0") == index.get("0")
    index.add(names["queries"])  # the lock has been released


def test_inside_other_frameworks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("langchain_core", "llama_index.core", "haystack", "pyterrier"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    names = run_blocks("integrations.md", {}, {})
    assert names["best"][0].id == names["found"][0].id and len(names["nodes"]) == 1


def test_exporting_to_other_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    searcher = Searcher.build("my-index", "colbertz/nano", ["Bread needs yeast.", "Glaciers move."], ids=["b", "g"])
    names = run_blocks("export-vectors.md", {}, {})
    scores = {hit.id: hit.score for hit in searcher.search("what makes dough rise?")}
    num_tokens = len(names["queries"][0])
    assert {row["id"]: num_tokens - row["_distance"] for row in names["rows"]} == pytest.approx(scores, abs=1e-3)
    assert {row["id"]: 1 - row["_distance"] for row in names["nearest"]} == pytest.approx(scores, rel=0.2)


def test_evaluation_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    """The first block; the second needs a data set of the hub."""
    monkeypatch.chdir(tmp_path)
    texts = {"b": "Bread needs yeast.", "g": "Glaciers move."}
    rows = [json.dumps({"_id": name, "text": text}) for name, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "Bread needs yeast."}))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tb\t1\n")
    first, second = blocks_of(DOCS / "evaluation.md", "python")
    assert "mteb" in second and "mteb" not in first
    names: dict[str, object] = {}
    exec(first.replace("beir:scifact", str(tmp_path)).replace("runs/demo/model", str(checkpoint)), names)
    assert names["values"] == {"q": 1.0}
    assert len((tmp_path / "run.trec").read_text().splitlines()) == 2


def test_checkpoints_in_python(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if cpu.int8.instructions() is None:
        pytest.skip("this processor multiplies no 8-bit integers")
    model = ColBERT.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path)
    model.export_onnx(tmp_path, int8=True)
    names = run_blocks("checkpoints.md", {"ColBERT": ColBERT}, {"MODEL": str(tmp_path)})
    assert len(names["model"].encode_query(["a"])) == 1


def test_coming_from_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    """The Python of the page runs, and every attribute that its tables recommend exists."""
    monkeypatch.chdir(tmp_path)
    names = run_blocks("coming-from.md", {}, {"lightonai/ColBERT-Zero": str(checkpoint)})
    assert [place for place, _ in names["ranking"]] in ([0, 1], [1, 0]) and names["loss"].ndim == 0
    assert {result["document_id"] for result in names["results"]} == {"b", "g"}
    text = (DOCS / "coming-from.md").read_text(encoding="utf-8")
    recommended = " ".join(re.findall(r"^\| .* \| (.*) \|$", text, re.MULTILINE))
    attributes = re.findall(r"\b(index|searcher|model)\.(\w+)", recommended)
    assert len(set(attributes)) > 15
    for name, attribute in attributes:
        assert hasattr(names[name], attribute), f"{name}.{attribute}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("CHANGELOG.md", "log.md")], ids=name_of)
def test_files_that_pages_name_exist(page: Path) -> None:
    top = "colbertz|kernels|configs|tests|tools|benchmarks|docs"
    named = re.findall(rf"(?<![\w-])((?:{top})/[\w./-]+\.(?:py|md|yaml|sh|json))\b", page.read_text(encoding="utf-8"))
    missing = {path for path in named if "NAME" not in path and not (ROOT / path).exists()}
    assert not missing


def test_in_your_code(checkpoint: Path) -> None:
    padded, mask = torch.randn(2, 3, 128), torch.ones(2, 3, dtype=torch.bool)
    rows = [{"query": f"question {i}", "document": f"answer {i}"} for i in range(3)]
    names: dict[str, object] = {"torch": torch, "nn": nn, "F": F, "Tensor": Tensor, "Tokens": Tokens}
    names |= {"DataLoader": DataLoader, "padded": padded, "mask": mask, "rows": rows, "keep": torch.ones(6).bool()}
    replaced = {"lightonai/ColBERT-Zero": str(checkpoint), '"cuda"': '"cpu"', "num_workers=4": "num_workers=0"}
    replaced[', multiprocessing_context="spawn"'] = ""
    run_blocks("in-your-code.md", names, replaced)

    tokenizer = names["tokenizer"]
    queries, documents = tokenizer.queries(["a", "b c"]), tokenizer.documents(["a", "b c"])
    reranker = names["Reranker"](str(checkpoint))
    reranker(queries, documents).sum().backward()
    assert reranker.gate.weight.grad is not None
    assert all(p.grad is None for p in reranker.colbert.parameters())
    tower = names["TwoTower"](str(checkpoint)).train()
    tower(queries, documents).backward()
    assert all(p.grad is not None for p in tower.parameters())
    assert [len(side) for side in next(iter(names["loader"]))] == [3, 3]


def test_the_page_of_settings_is_up_to_date() -> None:
    script = program("generate_settings")
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run make generate"


def test_the_pictures_of_the_kernels_are_up_to_date() -> None:
    script = program("draw_kernels")
    shown = set(re.findall(r"images/(kernel_\w+\.svg)", (DOCS / "kernels.md").read_text(encoding="utf-8")))
    assert shown == set(script.PICTURES)
    for name, draw in script.PICTURES.items():
        drawn = draw()
        assert (script.IMAGES / name).read_text(encoding="utf-8") == drawn, "run make generate"
        ElementTree.fromstring(drawn)


def test_the_charts_of_the_results_are_up_to_date() -> None:
    script = program("draw_results")
    measured = [name for name in script.PICTURES if (script.RESULTS / f"{name}.json").is_file()]
    assert {"search_cpu", "search_growth"} <= set(measured)
    for name in measured:
        results = json.loads((script.RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        drawn = script.PICTURES[name](results)
        assert script.image(name).read_text(encoding="utf-8") == drawn, "run make generate"


def test_the_tables_of_the_recipes_are_up_to_date() -> None:
    script = program("generate_recipe")
    names = []
    for path in script.PAGES:
        page = path.read_text(encoding="utf-8")
        assert script.page(page) == page, "run make generate"
        names += [place[2] for place in script.PLACE.finditer(page)]
    assert {"recipe", "mini"} <= set(names)
    for name in names:
        rows = script.rows_of(name)
        assert rows and all(row["contender"] in script.tables(rows) for row in rows)


def test_the_table_of_recall_is_up_to_date() -> None:
    script = program("generate_recall")
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.PLACE.search(page) and script.page(page) == page, "run make generate"


def recipe_row(
    contender: str, collection: str, mean: float, num_seeds: int, search: str = "exact"
) -> dict[str, object]:
    """A row of benchmarks/results/recipe.json."""
    row: dict[str, object] = {"contender": contender, "collection": collection, "search": search, "nDCG@10": mean}
    return row | {"low": mean - 0.02, "high": mean + 0.02, "seeds": [mean] * num_seeds}


def texts_of(drawn: str) -> list[str]:
    """The texts in a picture, after a check that it is well-formed and that all of them are inside it."""
    root = ElementTree.fromstring(drawn)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    elements = [element for element in root.iter() if element.tag.endswith("}text")]
    for element in elements:
        assert 0 < float(element.get("x", -1)) < width and 0 < float(element.get("y", -1)) < height
    assert "nan" not in drawn and "inf" not in drawn
    return [element.text or "" for element in elements]


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_chart_of_the_recipe_can_be_drawn_from_a_part_of_the_results(num_seeds: int) -> None:
    script = program("draw_results")
    long_name = "all three, and a contender with a name that <nobody> would want to read to its end"
    rows = [recipe_row("BM25", "squad", 0.87, 1, ""), recipe_row("all three", "squad", 0.8, num_seeds)]
    rows += [recipe_row("all three", "squad", 0.1234, num_seeds, "plaid")]
    rows += [recipe_row(long_name, "squad", 0.75, num_seeds), recipe_row("all three", "no BM25", 0.5, num_seeds)]
    for part in (rows[:1], rows[4:5], rows):
        texts = texts_of(script.recipe({"rows": part}))
        assert {f"{row['nDCG@10']:.3f}" for row in part if row["search"] != "plaid"} <= set(texts)
        assert "0.123" not in texts
    assert long_name in " ".join(texts)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_training_curves_of_stages_and_seeds(tmp_path: Path, num_seeds: int) -> None:
    collect, draw = program("recipe_curves", "benchmarks"), program("draw_results")
    with pytest.raises(FileNotFoundError, match="no seed"):
        collect.curves(tmp_path)
    for seed in range(num_seeds + 1):
        for stage in collect.STAGES:
            folder = tmp_path / f"seed{seed}" / stage
            folder.mkdir(parents=True)
            steps = [{"step": step, "loss": 20 / step, "accuracy": 0.5, "lr": 1e-3} for step in (10, 20, 30)]
            lines = [*steps, {"step": 30, "pairs/mrr@10": 0.5}]
            (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            if seed < num_seeds:  # the run of the last seed is not complete
                (folder / "result.json").touch()
    rows = collect.curves(tmp_path)
    assert [row["seed"] for row in rows] == [*range(num_seeds)] * 3
    assert all(row["step"] == [10, 20, 30] and row["loss"] == [2, 1, 20 / 30] for row in rows)
    older = [{**row, "loss": [], "seed": seed} for row in rows[:1] for seed in (0, 7)]
    assert collect.together(older, rows) == [*rows[:num_seeds], older[1], *rows[num_seeds:]]
    lines_drawn = {1: 2, 3: 8}[num_seeds]  # for several seeds, their mean is one more line
    assert draw.recipe_curves({"rows": rows}).count("<polyline") == 3 * lines_drawn
    assert "Stage 3: distillation" in texts_of(draw.recipe_curves({"rows": rows}))
    texts_of(draw.recipe_curves({"rows": rows[:1]}))


def test_the_line_of_recall_leaves_out_settings_that_a_faster_one_exceeds() -> None:
    script = program("draw_results")
    machine = {"documents": 10, "cores": 1}
    settings = (("default", 0.9, 5.0), ("quick", 0.8, 1.0), ("beaten", 0.7, 2.0), ("same", 0.9, 6.0))
    rows = [{"system": "ours", "setting": name, "recall@10": recall, "ms": ms} for name, recall, ms in settings]
    assert [row["setting"] for row in script.best(rows)] == ["quick", "default", "same"]
    texts = texts_of(script.recall_latency({"machine": machine, "rows": rows}))
    assert {"ours, default", "quick", "beaten"} <= set(texts)
    texts_of(script.recall_latency({"machine": machine, "rows": rows[1:2]}))  # a single point, at a power of ten


def test_the_floors_in_contributing_are_those_of_the_tests() -> None:
    floors: list[set[str]] = [set() for _ in FLOORS]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for floor, parts in re.findall(r"^\| (\d+) \| (`[^|]*`) \|", text, re.MULTILINE):
        floors[int(floor) - 1] |= set(re.findall(r"`(\w+)`", parts))
    assert floors == FLOORS


def test_the_settings_named_in_the_guide_exist() -> None:
    documented = program("generate_settings").SECTIONS.items()
    known = {f"{section}.{field.name}".lstrip(".") for section, kind in documented for field in fields(kind)}
    sections = {name.split(".")[0] for name in known if "." in name}
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    named = {key for key in re.findall(r"`-{0,2}([a-z_]+\.[a-z_]+)\b", text) if key.split(".")[0] in sections}
    assert len(named) > 15
    assert named <= known, named - known
