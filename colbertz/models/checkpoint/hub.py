"""From the name of a checkpoint to its directory: a local one, a packaged model, or a download from the hub."""

from pathlib import Path

from colbertz.files import restore_directory
from colbertz.models.checkpoint.layouts import FILES

_PACKAGED_FOLDER = Path(__file__).parents[1] / "packaged"
# The models that come with the package, by the names they would have on the hub, and their directories.
PACKAGED = {f"colbertz/{name}": _PACKAGED_FOLDER / name for name in ("mini", "nano")}
# What is downloaded of a repository on the hub.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.bin", FILES.stanford]


def resolve(path_or_hub_id: str | Path) -> Path:
    """The directory of a checkpoint.

    Args:
        path_or_hub_id: a local directory, taken as it is; otherwise `colbertz/mini` or `colbertz/nano`, the models that
            come with the package; or `owner/name` of a repository on the Hugging Face hub, which is downloaded to the
            hub's cache.

    Raises:
        FileNotFoundError: if there is neither such a directory nor such a repository.
    """
    path, name = Path(path_or_hub_id).expanduser(), str(path_or_hub_id)
    restore_directory(path)
    if path.is_dir():
        return path
    if name in PACKAGED and not path.exists():
        return PACKAGED[name]
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise FileNotFoundError(
            f"{name} is no directory; give a checkpoint directory or a hub id such as lightonai/ColBERT-Zero"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{name} is neither a directory nor to be had from the Hugging Face hub ({reason})"
        ) from error
