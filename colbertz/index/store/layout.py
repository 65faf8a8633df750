"""The files of an index on disk.

    manifest.json                     the only file that is ever replaced, by one atomic rename
    codec-000001/                     centroids, and buckets or codewords, see codec.py
    segment-000001/codes.npy          (num_tokens,) uint16 or uint32, each token's centroid
    segment-000001/residuals.npy      (num_tokens, row bytes) uint8, see scalar.py and product.py
    segment-000001/inverse_norms.npy  (num_tokens,) float32, 1 / norm of centroid + residual
    segment-000001/doclens.npy        (num_documents,) int32, tokens of each document
    segment-000001/ivf.npy            (postings,) int32, the local_idx of the documents in cell 0, in cell 1, …
    segment-000001/ivf_lengths.npy    (cells,) int32, documents of each cell
    segment-000001/document_checksums.npy, list_checksums.npy    compared when a document or a list is first used
    segment-000001/documents.sqlite   id, text, metadata, and their full-text index
    segment-000001/deleted-000002.npy int32, the local_idx of the deleted documents, ascending
    segment-000001/documents-000003.sqlite            in place of documents.sqlite, once metadata was changed
    build/                            an unfinished build, which the same call continues

A file of such a name that the manifest does not name was left by an interrupted write: it is never read, and the next
writer removes it. docs/format.md is the full specification.
"""

from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"
# The files of a codec's folder: of every codec, and of its kinds of residuals.
CENTROID_FILES = ("centroids.npy", "avg_residual.npy", "cluster_threshold.npy")
SCALAR_FILES = ("bucket_cutoffs.npy", "bucket_weights.npy")
PRODUCT_FILES = ("codewords.npy",)
ROTATION_FILE = "rotation.npy"
CODEC_FILES = (*CENTROID_FILES, *SCALAR_FILES, *PRODUCT_FILES, ROTATION_FILE)
NBITS = (1, 2, 4, 8)
BUILD = "build"
PROGRESS = f"{BUILD}/progress.json"


@dataclass(frozen=True)
class SegmentFiles:
    """The files of one segment."""

    folder: Path

    @property
    def codes(self) -> Path:
        return self.folder / "codes.npy"

    @property
    def residuals(self) -> Path:
        return self.folder / "residuals.npy"

    @property
    def inverse_norms(self) -> Path:
        return self.folder / "inverse_norms.npy"

    @property
    def doclens(self) -> Path:
        return self.folder / "doclens.npy"

    @property
    def ivf(self) -> Path:
        return self.folder / "ivf.npy"

    @property
    def ivf_lengths(self) -> Path:
        return self.folder / "ivf_lengths.npy"

    @property
    def documents(self) -> Path:
        return self.folder / "documents.sqlite"

    @property
    def document_checksums(self) -> Path:
        return self.folder / "document_checksums.npy"

    @property
    def list_checksums(self) -> Path:
        return self.folder / "list_checksums.npy"

    @property
    def checksums(self) -> tuple[Path, ...]:
        """Those that segments of format version 2 do not have."""
        return self.document_checksums, self.list_checksums

    @property
    def arrays(self) -> tuple[Path, ...]:
        """The other arrays."""
        return self.codes, self.residuals, self.inverse_norms, self.doclens, self.ivf, self.ivf_lengths
