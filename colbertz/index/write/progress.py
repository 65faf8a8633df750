"""How far a build has come, in build/progress.json, so that the same call can continue it after it was killed."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from colbertz.files import write_atomically
from colbertz.index.store.manifest import BUILD, PROGRESS, Encoding
from colbertz.index.write.leftovers import remove


@dataclass(frozen=True)
class Settings:
    """What an interrupted build must have in common with the call that continues it.

    Attributes:
        nbits, seed, model, fingerprint, encoding, recipe: see `Index.build`.
        compacted: the generation of the index whose documents are coded anew; None for documents from outside.
    """

    nbits: int
    seed: int
    model: str | None
    fingerprint: Sequence[float] | None
    encoding: Encoding | None = None
    recipe: str | None = None
    compacted: int | None = None


class Progress:
    """The file build/progress.json. Every change is on the disk when the method returns.

    Attributes:
        codec_is_trained: whether build/codec is complete.
        num_coded: chunks whose tokens are coded.
        num_far: of the coded tokens, how many are far from their centroids.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        """Read the file in the index `root`, or begin a new build if it was for other settings."""
        self._path = root / PROGRESS
        self._settings = json.loads(json.dumps(asdict(settings)))
        content: dict[str, Any] = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        if content.get("settings") != self._settings:
            if (root / BUILD).exists():
                remove(root, root / BUILD)
            (root / BUILD).mkdir()
            self.start_over()
        else:
            self.codec_is_trained = bool(content["codec"])
            self.num_coded = int(content["encoded"])
            self.num_far = int(content["num_far"])

    def start_over(self, generation: int | None = None) -> None:
        """Forget the codec and the codes, because the chunks change, or because they became generation `generation`."""
        self.codec_is_trained, self.num_coded, self.num_far = False, 0, 0
        self._save(generation)

    def codec_trained(self) -> None:
        """Note that build/codec is complete."""
        self.codec_is_trained = True
        self._save()

    def chunk_coded(self, num_far: int) -> None:
        """Note that one more chunk is coded, and how many of all coded tokens are far."""
        self.num_coded += 1
        self.num_far = num_far
        self._save()

    def _save(self, generation: int | None = None) -> None:
        content = {
            "settings": self._settings,
            "codec": self.codec_is_trained,
            "encoded": self.num_coded,
            "num_far": self.num_far,
            "generation": generation,
        }
        write_atomically(self._path, json.dumps(content))
