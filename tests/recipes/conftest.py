"""What the tests of the nano recipe share."""

from pathlib import Path

import pytest
from nano_world import make_world


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path)
