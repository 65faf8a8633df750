"""How far a build has come, in build/progress.json, so that the same call can continue it after it was killed."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from colbertz.index.store.coding import Coding
from colbertz.index.store.layout import BUILD, PROGRESS
from colbertz.index.store.manifest import Encoding
from colbertz.index.write import checked_json
from colbertz.index.write.leftovers import remove

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What an interrupted build must have in common with the call that continues it.

    Attributes:
        coding: how residuals are coded.
        seed, model, fingerprint, encoding, recipe: see `Index.build`.
        compacted: the generation of the index whose documents are coded anew; None for documents from outside.
    """

    coding: Coding
    seed: int
    model: str | None
    fingerprint: Sequence[float] | None
    encoding: Encoding | None = None
    recipe: str | None = None
    compacted: int | None = None


class CodedChunk(NamedTuple):
    """A chunk whose tokens are coded.

    Attributes:
        num_far: how many of them are far from their centroids.
        norm_deviation: of the chunks up to this one, see `SegmentInfo`.
        checksum: CRC-32 of the checksums of its documents.
    """

    num_far: int
    norm_deviation: float
    checksum: int


class Progress:
    """The file build/progress.json. Every change is on the disk when the method returns.

    Attributes:
        codec: the SHA-256 of each file of build/codec, by name; None if it is not complete.
        coded: the chunks whose tokens are coded.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        """Read the file in the index `root`, or begin a new build if it was for other settings or is damaged."""
        self._path = root / PROGRESS
        self._settings = json.loads(json.dumps(asdict(settings)))
        content = checked_json.load(self._path)
        if content is None and self._path.exists():
            logger.warning("%s is damaged or of another version: the build begins anew", self._path)
        if content is None or content["settings"] != self._settings:
            if (root / BUILD).exists():
                remove(root, root / BUILD)
            (root / BUILD).mkdir()
            self.start_over()
        else:
            self.codec: dict[str, str] | None = content["codec"]
            self.coded = [CodedChunk(*chunk) for chunk in content["coded"]]

    def start_over(self, generation: int | None = None) -> None:
        """Forget the codec and the codes, because the chunks change, or because they became generation `generation`."""
        self.codec, self.coded = None, []
        self._save(generation)

    def codec_trained(self, files: dict[str, str]) -> None:
        """Note that build/codec is complete, and the SHA-256 of its files."""
        self.codec = files
        self._save()

    def chunks_coded(self, coded: Sequence[CodedChunk]) -> None:
        """Note which chunks are coded."""
        self.coded = list(coded)
        self._save()

    def _save(self, generation: int | None = None) -> None:
        content = {
            "settings": self._settings,
            "codec": self.codec,
            "coded": self.coded,
            "generation": generation,
        }
        checked_json.save(self._path, content)
