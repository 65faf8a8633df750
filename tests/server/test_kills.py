"""Servers that are killed while clients write: nothing acknowledged is lost, nothing is applied twice. See kills.py.

`KILLS=210 pytest tests/server/test_kills.py` makes more of them than the 40 of an ordinary run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("kills.py")


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    kills = int(os.environ.get("KILLS", "40"))
    path = [str(SCRIPT.parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "root"), str(kills), "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] == kills and found["checked"] >= kills // 2 and found["acknowledged"] > kills
