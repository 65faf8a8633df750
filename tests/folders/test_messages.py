"""Requests and answers go through JSON unchanged, and their module needs the standard library only."""

import json
import subprocess
import sys
from dataclasses import asdict

from colbertz.folders.messages import Answer, FolderHit, Line, QueryHits, SearchRequest


def test_a_request_goes_through_json() -> None:
    request = SearchRequest("/root", ("a", "b"), k=3, paths=("src",), kinds=("code",), regex="x+", text_weight=0.5)
    assert SearchRequest.from_json(json.loads(json.dumps(asdict(request)))) == request


def test_an_answer_goes_through_json() -> None:
    passage = (Line(3, "def parse(text):", ((4, 9),)), Line(4, "    return text"))
    hit = FolderHit("src/a.py", 1, 9, 3, 0.5, "A.parse", "code", maxsim=7.25, passage=passage, text="whole")
    answer = Answer("/root", (QueryHits("parse", (hit,), {"src/a.py": 2}), QueryHits("other")), 4, 1, 10, 20, "one")
    assert Answer.from_json(json.loads(json.dumps(asdict(answer)))) == answer
    assert answer.partial


def test_messages_import_the_standard_library_only() -> None:
    code = "import sys, colbertz.folders.messages; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*{name.split('.')[0] for name in sys.modules})"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) - set(before.stdout.split()) - sys.stdlib_module_names == {"colbertz"}
