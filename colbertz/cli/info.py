"""`colbertz info`: what a checkpoint or an index is."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from colbertz.text.printable import printable

HELP = "describe a checkpoint or an index"
EXAMPLES = """\
  colbertz info my-index
  colbertz info lightonai/ColBERT-Zero
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="directory of an index or a checkpoint, or a Hugging Face hub id")


def run(args: argparse.Namespace) -> None:
    from colbertz.index.store.detect import detect

    is_index = (Path(args.path) / "manifest.json").is_file() or detect(Path(args.path)) is not None
    lines = list(_about_index(args.path) if is_index else _about_checkpoint(args.path))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {printable(value)}")


def _about_index(path: str) -> Iterator[tuple[str, str]]:
    from colbertz.index import Index
    from colbertz.index.store.detect import detect

    index = Index.open(path)
    manifest = index.manifest
    num_deleted = sum(segment.num_deleted for segment in manifest.segments)
    program = detect(Path(path))
    yield "index", str(path) + (f" ({program})" if program else "")
    yield "documents", f"{len(index):,}" + (f" and {num_deleted:,} deleted" if num_deleted else "")
    yield "tokens", f"{index.num_tokens:,} ({index.num_tokens / max(1, len(index) + num_deleted):.1f} a document)"
    yield "embeddings", f"{index.embedding_dim} dimensions {manifest.residual_coding}, {index.num_cells:,} centroids"
    size = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    yield "size", f"{_megabytes(size)} in {_counted(len(manifest.segments), 'segment')}"
    yield "fields", ", ".join(index.fields) or "none"
    yield "model", index.model or "not recorded"
    encoding = manifest.encoding
    yield "encoded by", f"{encoding.backend} in {encoding.dtype}" if encoding else "not recorded"
    if not program:
        yield "advice", f"{advice} (colbertz compact)" if (advice := index.advice()) else "none"


def _about_checkpoint(path: str) -> Iterator[tuple[str, str]]:
    from colbertz.models import ColBERT

    model = ColBERT.from_pretrained(path, "cpu")
    config, settings = model.encoder.config, model.settings
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    yield "checkpoint", str(path)
    yield "encoder", type(model.encoder).__name__
    yield "layers", f"{config.num_hidden_layers} of {config.hidden_size}, {config.num_attention_heads} heads"
    yield "vocabulary", f"{config.vocab_size:,} tokens"
    yield "parameters", f"{num_parameters:,} ({_megabytes(4 * num_parameters)} in float32)"
    yield "embeddings", f"{model.embedding_dim} ({_counted(len(model.projections), 'projection')})"
    expansion = "attended" if settings.attend_to_expansion_tokens else "not attended"
    yield "query expansion", expansion if settings.do_query_expansion else "no"
    for side in ("query", "document"):
        yield f"{side} length", f"{getattr(settings, f'{side}_length')} tokens"
        yield f"{side} prefix", repr(getattr(settings, f"{side}_prefix"))
    for name, prompt in settings.prompts.items():
        yield f"prompt {name!r}", repr(prompt)
    yield "skiplist", " ".join(settings.skiplist_words) or "none"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
