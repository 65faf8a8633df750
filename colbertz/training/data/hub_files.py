"""Files of data sets that `datasets` has found, on this machine or on the Hugging Face hub."""

from typing import Any


def local(file: str) -> str:
    """The file on this machine; one on the hub is downloaded, or found in the cache."""
    if not file.startswith("hf://"):
        return file
    from huggingface_hub import HfFileSystem, hf_hub_download

    place: Any = HfFileSystem().resolve_path(file)
    return hf_hub_download(place.repo_id, place.path_in_repo, repo_type=place.repo_type, revision=place.revision)
