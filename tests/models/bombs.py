"""Load checkpoints that are made to do harm, each in a child with little memory and time, and print what happened.

Run by test_bombs.py as `python bombs.py FOLDER`. For each case it prints its name, how the child ended ("refused" with
the message of a UserError, "loaded", an exception's name, or a signal), and what the message must say.
"""

import json
import logging
import os
import resource
import shutil
import signal
import socket
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from published import bare_bert, bare_modernbert, colbert_zero, edit_json, pickle_weights, shard
from safetensors.torch import load_file

from colbertz import ColBERT
from colbertz.errors import UserError

# A case takes less; a machine under load is slow.
SECONDS = 60
# More than what a child has mapped already.
MORE_MEMORY = 1 << 30
Change = Callable[[Path], Any]
TOKENIZER, CONFIG, WEIGHTS = "tokenizer.json", "config.json", "model.safetensors"
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def config(**changes: Any) -> Change:
    return lambda directory: edit_json(directory / CONFIG, **changes)


def settings(**changes: Any) -> Change:
    return lambda directory: edit_json(directory / "config_sentence_transformers.json", **changes)


def dense(**changes: Any) -> Change:
    return lambda directory: edit_json(directory / "1_Dense/config.json", **changes)


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Change:
    def edit(directory: Path) -> None:
        content = json.loads((directory / TOKENIZER).read_text("utf-8"))
        change(content)
        (directory / TOKENIZER).write_text(json.dumps(content))

    return edit


def split(regex: str) -> Change:
    part = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return tokenizer(lambda content: content.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [part]}))


def normalizer(*parts: dict[str, Any]) -> Change:
    return tokenizer(lambda content: content.update(normalizer={"type": "Sequence", "normalizers": list(parts)}))


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def instead(file: str, make: Callable[[Path], object]) -> Change:
    """Remove a file and put something else in its place."""

    def change(directory: Path) -> None:
        path = directory / file
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return change


def listen(path: Path) -> None:
    """A socket; its path may not be long."""
    before = Path.cwd()
    os.chdir(path.parent)
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(before)


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def header(**tensors: Any) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        content = json.dumps(tensors).encode()
        path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(64))

    return make


def sparse(size: int) -> Callable[[Path], object]:
    """A file of a terabyte that takes no space, with a header that promises as many numbers."""

    def make(path: Path) -> None:
        content = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(content)) + content)
            file.truncate(8 + len(content) + size)

    return make


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def weight_map(name: str) -> Change:
    def change(directory: Path) -> None:
        shard(directory)
        path = directory / "model.safetensors.index.json"
        names = json.loads(path.read_text())["weight_map"]
        edit_json(path, weight_map=dict.fromkeys(names, name))

    return change


def pickled(tensors: Callable[[dict[str, Any]], Any]) -> Change:
    def change(directory: Path) -> None:
        (directory / "pytorch_model.bin").unlink()
        weights = load_file(directory.parent / "weights.safetensors")
        torch.save(tensors(weights), directory / "pytorch_model.bin")

    return change


def compressed(directory: Path) -> None:
    path = directory / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))


def start_bin(directory: Path) -> Path:
    bare_modernbert(directory)
    shutil.copy(directory / WEIGHTS, directory.parent / "weights.safetensors")
    return pickle_weights(directory)


def many_modules(directory: Path) -> None:
    modules = json.loads((directory / "modules.json").read_text())
    (directory / "modules.json").write_text(json.dumps([modules[0], *[modules[1]] * 100_000]))


def module_path(path: str) -> Change:
    def change(directory: Path) -> None:
        modules = json.loads((directory / "modules.json").read_text())
        modules[1]["path"] = path
        (directory / "modules.json").write_text(json.dumps(modules))
        shutil.copytree(directory / "1_Dense", directory.parent / "elsewhere", dirs_exist_ok=True)

    return change


def link_folder(directory: Path) -> None:
    shutil.copytree(directory / "1_Dense", directory.parent / "elsewhere", dirs_exist_ok=True)
    shutil.rmtree(directory / "1_Dense")
    (directory / "1_Dense").symlink_to("../elsewhere")


def link_file(directory: Path) -> None:
    shutil.move(directory / WEIGHTS, directory.parent / "secret")
    (directory / WEIGHTS).symlink_to("../secret")


def added(number: int) -> Change:
    def change(content: dict[str, Any]) -> None:
        start = 1 + max(token["id"] for token in content["added_tokens"])
        content["added_tokens"] += [{"id": start + i, "content": f"<{i}>", **ADDED} for i in range(number)]

    return tokenizer(change)


def around(change: Callable[[dict[str, Any]], object]) -> Change:
    return tokenizer(lambda content: change(content["post_processor"]))


CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
# A start, a change, and what the message must name; "loaded" for what is harmless and must load.
CASES: dict[str, tuple[Change, Change, str]] = {
    "100,000 layers": (colbert_zero, config(num_hidden_layers=100_000), "num_hidden_layers"),
    "vocab_size 10^12": (colbert_zero, config(vocab_size=10**12), "vocab_size"),
    "vocab_size 10^8": (colbert_zero, config(vocab_size=10**8, hidden_size=10**4), "GB"),
    "hidden_size 10^9": (colbert_zero, config(hidden_size=10**9), "hidden_size"),
    "hidden_size 10^400": (colbert_zero, config(hidden_size=10**400), "hidden_size"),
    "heads 0": (colbert_zero, config(num_attention_heads=0), "num_attention_heads"),
    "theta NaN": (colbert_zero, config(global_rope_theta=float("nan")), "rope_theta"),
    "theta 1e-300": (colbert_zero, config(global_rope_theta=1e-300), "rope_theta"),
    "epsilon infinite": (bare_bert, config(layer_norm_eps=float("inf")), "layer_norm_eps"),
    "positions 10^12": (bare_bert, config(max_position_embeddings=10**12), "max_position_embeddings"),
    "types 10^8": (bare_bert, config(type_vocab_size=10**8), "GB"),
    "query_length 10^9": (colbert_zero, settings(query_length=10**9), "query_length"),
    "query_length 10^12": (colbert_zero, settings(query_length=10**12, do_query_expansion=False), "query_length"),
    "in_features 10^12": (colbert_zero, dense(in_features=10**12), "in_features"),
    "out_features 10^6": (colbert_zero, dense(out_features=10**6), "linear.weight"),
    "100,000 Dense modules": (colbert_zero, many_modules, "modules"),
    "no modules.json": (colbert_zero, instead("modules.json", lambda path: None), "modules.json"),
    "a Dense module outside": (colbert_zero, module_path("../elsewhere"), "outside"),
    "a Dense module at an absolute path": (colbert_zero, module_path("/etc"), "outside"),
    "a module's path of 260 letters": (colbert_zero, module_path("a" * 260), "modules.json"),
    "a module's path with a zero": (colbert_zero, module_path("a\0b"), "modules.json"),
    "a linked folder": (colbert_zero, link_folder, "outside"),
    "a linked file": (colbert_zero, link_file, "outside"),
    "a link within": (
        colbert_zero,
        lambda d: os.link(d / WEIGHTS, d / "x") or instead(WEIGHTS, lambda p: p.symlink_to("x"))(d),
        "loaded",
    ),
    "a link to nowhere": (colbert_zero, instead("modules.json", lambda path: path.symlink_to("none")), "modules.json"),
    "a link to itself": (colbert_zero, instead(CONFIG, lambda path: path.symlink_to(CONFIG)), "config.json"),
    "deep JSON": (colbert_zero, instead(CONFIG, text("[" * 10**6)), "too deeply"),
    "deep objects": (colbert_zero, instead("tokenizer_config.json", text('{"a":' * 10**6)), "too deeply"),
    "many lists": (colbert_zero, instead(TOKENIZER, text("[" + "[]," * 4_000_000 + "[]]")), "lists and objects"),
    "a large config": (colbert_zero, instead(CONFIG, sparse(10**10)), "bytes"),
    "a long number": (colbert_zero, instead(CONFIG, text('{"vocab_size": ' + "9" * 10**5 + "}")), "config.json"),
    **{
        f"{kind} for {file}": (colbert_zero, instead(file, make), file.rpartition("/")[2])
        for file in (CONFIG, "modules.json", WEIGHTS, TOKENIZER, "tokenizer_config.json", "1_Dense/config.json")
        for kind, make in {
            "a pipe": os.mkfifo,
            "a socket": listen,
            "a device": lambda path: path.symlink_to("/dev/zero"),
            "a directory": Path.mkdir,
        }.items()
    },
    "a header of 2^60 bytes": (
        colbert_zero,
        instead(WEIGHTS, lambda p: p.write_bytes(struct.pack("<Q", 1 << 60))),
        WEIGHTS,
    ),
    "overlapping tensors": (
        colbert_zero,
        instead(WEIGHTS, header(a=tensor([4], [0, 16]), b=tensor([4], [8, 24]))),
        WEIGHTS,
    ),
    "a shape that wraps": (colbert_zero, instead(WEIGHTS, header(a=tensor([2**62, 4], [0, 0]))), WEIGHTS),
    "offsets that wrap": (colbert_zero, instead(WEIGHTS, header(a=tensor([4], [2**64 - 16, 2**64 - 1]))), WEIGHTS),
    "a negative shape": (colbert_zero, instead(WEIGHTS, header(a=tensor([-4], [0, 16]))), WEIGHTS),
    "a wrong size": (colbert_zero, instead(WEIGHTS, header(a=tensor([64], [0, 64]))), WEIGHTS),
    "an unknown dtype": (colbert_zero, instead(WEIGHTS, header(a=tensor([64], [0, 64], "F9"))), WEIGHTS),
    "a terabyte of nothing": (colbert_zero, instead(WEIGHTS, sparse(1 << 40)), "do not belong together"),
    "a terabyte for the projection": (
        colbert_zero,
        instead("1_Dense/model.safetensors", sparse(1 << 40)),
        "do not belong together",
    ),
    "150,000 empty tensors": (
        colbert_zero,
        instead(WEIGHTS, header(**{f"t{i}": tensor([0], [0, 0]) for i in range(150_000)})),
        WEIGHTS,
    ),
    "a shard elsewhere": (colbert_zero, weight_map("../../secret"), "../../secret"),
    "a shard at an absolute path": (colbert_zero, weight_map("/etc/passwd"), "/etc/passwd"),
    "a shard that is missing": (colbert_zero, weight_map("none.safetensors"), "none.safetensors"),
    "a shard with a zero": (colbert_zero, weight_map("a\0.safetensors"), "weight_map"),
    "a shard that is a list": (colbert_zero, weight_map(["a"]), "weight_map"),  # type: ignore[arg-type]
    "an expanded tensor": (start_bin, pickled(lambda w: w | {"a": torch.zeros(1).expand(10**12)}), "expanded"),
    "a list of tensors": (start_bin, pickled(lambda w: list(w.values())), "dictionary"),
    "a compressed pickle": (start_bin, compressed, "compressed"),
    "a pickle of tensors": (start_bin, pickled(lambda w: w), "loaded"),
    "an id of 10^7": (colbert_zero, tokenizer(lambda c: c["model"]["vocab"].update(zz=10**7)), "10000000"),
    "an id of 2^31": (colbert_zero, tokenizer(lambda c: c["model"]["vocab"].update(zz=2**31)), "2147483648"),
    "an id of 2^64": (colbert_zero, tokenizer(lambda c: c["model"]["vocab"].update(zz=2**64)), TOKENIZER),
    "a negative id": (colbert_zero, tokenizer(lambda c: c["model"]["vocab"].update(zz=-1)), TOKENIZER),
    "a gap in the ids": (colbert_zero, tokenizer(lambda c: c["model"]["vocab"].update(zz=15_000)), "belong together"),
    "19,000 added tokens": (colbert_zero, added(19_000), "embedding matrix"),
    "100,000 added tokens": (colbert_zero, added(100_000), "added tokens"),
    "an added token of 2^31": (
        bare_bert,
        lambda d: edit_json(d / "tokenizer_config.json", added_tokens_decoder={str(2**31): {"content": "zz"}}),
        "zz",
    ),
    "an added token with a long id": (
        bare_bert,
        lambda d: edit_json(d / "tokenizer_config.json", added_tokens_decoder={"9" * 5000: {"content": "zz"}}),
        "added_tokens_decoder",
    ),
    "exponential time": (colbert_zero, split("(a+)+b"), "linear"),
    "quadratic time": (colbert_zero, split(r"[\s\S]*zzz"), "linear"),
    "a large repetition": (colbert_zero, split("(?:(?:a{1000}){1000}){1000}"), "linear"),
    "an expression that is none": (colbert_zero, split("(a"), "linear"),
    "Llama's expression": (
        colbert_zero,
        split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        ),
        "loaded",
    ),
    "a text doubled 40 times": (colbert_zero, normalizer(*[replace({"String": "a"}, "aa")] * 40), "times longer"),
    "a long replacement": (colbert_zero, normalizer(replace({"Regex": "."}, "a" * 10**6)), "times longer"),
    "bytes of bytes": (colbert_zero, normalizer(*[{"type": "ByteLevel"}] * 40), "times longer"),
    "10,000 normalizers": (colbert_zero, normalizer(*[{"type": "NFC"}] * 10_000), "normalizers"),
    "a normalizer without a type": (
        colbert_zero,
        normalizer({"pattern": {"String": "a"}, "content": "aa"}),
        "normalizer",
    ),
    "a panic while reading": (
        colbert_zero,
        normalizer({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        TOKENIZER,
    ),
    "a panic in a table": (
        colbert_zero,
        normalizer({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}),
        TOKENIZER,
    ),
    "a panic on texts": (
        colbert_zero,
        tokenizer(lambda content: content.update(pre_tokenizer={"type": "FixedLength", "length": 0})),
        "tokenizer",
    ),
    "random tokens": (colbert_zero, tokenizer(lambda c: c["model"].update(dropout=0.5)), "dropout"),
    "words of any length": (
        bare_bert,
        tokenizer(lambda c: c["model"].update(max_input_chars_per_word=10**9)),
        "max_input_chars_per_word",
    ),
    "100 tokens around a text": (colbert_zero, around(lambda p: p["single"].extend([CLS] * 100)), "around"),
    "a million ids around a text": (
        colbert_zero,
        around(lambda p: p["special_tokens"]["[CLS]"].update(ids=[1] * 10**6, tokens=["a"] * 10**6)),
        "one id",
    ),
    "an id around a text that is no token": (
        colbert_zero,
        around(lambda p: p["special_tokens"]["[CLS]"].update(ids=[2**31])),
        "around texts",
    ),
    "a terabyte for vocab.txt": (
        bare_bert,
        lambda d: (d / TOKENIZER).unlink() or instead("vocab.txt", sparse(1 << 40))(d),
        "vocab.txt",
    ),
}


def load(directory: Path) -> None:
    model = ColBERT.from_pretrained(directory, "cpu")
    for texts in (["a" * 40], ["red tower " * 1000]):
        assert bool(torch.isfinite(model.encode_query(texts).values).all())


def attempt(directory: Path) -> tuple[str, str]:
    """How loading ends in a child, and the message."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MORE_MEMORY,) * 2)
        signal.alarm(SECONDS)
        ending, message = "loaded", ""
        try:
            load(directory)
        except BaseException as error:  # noqa: BLE001
            ending = "refused" if isinstance(error, UserError | OSError) else type(error).__name__
            message = str(error)
        os.write(write, json.dumps([ending, message[:2000]]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name, ""
    ending, message = json.loads(content)
    return ending, message


def main(folder: Path, only: str) -> None:
    started: dict[Change, Path] = {}
    for number, (name, (start, change, named)) in enumerate(CASES.items()):
        if only not in name:
            continue
        directory = folder / str(number) / "model"
        if start not in started:
            started[start] = start(folder / "starts" / str(len(started)) / "model")
            load(started[start])  # what is imported and compiled now, a child need not
        shutil.copytree(started[start].parent, directory.parent)
        change(directory)
        ending, message = attempt(directory)
        print(json.dumps({"case": name, "ending": ending, "message": message, "named": named}), flush=True)
        shutil.rmtree(directory.parent)


if __name__ == "__main__":
    logging.disable()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
