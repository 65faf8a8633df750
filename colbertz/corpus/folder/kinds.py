"""What a file is, by its name alone: source code, tests, documentation or data, in which format, or nothing to read."""

import re

# Formats other than programming languages, by the ending of the name.
_FORMATS = {
    "markdown": ".md .markdown .mdx .mkd .qmd .rmd",
    "rst": ".rst .rest",
    "html": ".html .htm .xhtml",
    "text": ".txt .text .adoc .asciidoc .org .tex .textile .log .rtx .pod .texi .texinfo",
    "pdf": ".pdf",
    "docx": ".docx",
    "notebook": ".ipynb",
    "data": ".yaml .yml .toml .json .jsonc .json5 .jsonl .ndjson .ini .cfg .conf .properties .xml .xsd .css .scss "
    ".sass .less .sql .proto .graphql .tf .hcl .csv .tsv .cmake .mk .nix .env .svg .plist .gradle .bib .po .dockerfile",
}
FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in _FORMATS.items() for suffix in suffixes.split()}
# Programming languages of `languages.py`, by the ending of the name.
LANGUAGE_OF_SUFFIX = {
    suffix: language
    for language, suffixes in {
        "bash": ".sh .bash .zsh .ksh .bats",
        "c": ".c",
        "cpp": ".cpp .cc .cxx .c++ .hpp .hh .hxx .h++ .cu .cuh .ino .ipp .tpp",
        "csharp": ".cs .csx",
        "elixir": ".ex .exs",
        "go": ".go",
        "haskell": ".hs",
        "java": ".java",
        "javascript": ".js .mjs .cjs .jsx",
        "julia": ".jl",
        "kotlin": ".kt .kts",
        "lua": ".lua",
        "ocaml": ".ml",
        "ocaml_interface": ".mli",
        "php": ".php .phtml",
        "python": ".py .pyi .pyw .pyx .pxd",
        "ruby": ".rb .rake .gemspec",
        "rust": ".rs",
        "scala": ".scala .sc .sbt",
        "swift": ".swift",
        "tsx": ".tsx",
        "typescript": ".ts .mts .cts",
    }.items()
    for suffix in suffixes.split()
}
# Source code without a grammar here: it is cut at blank lines and little indentation.
_OTHER_CODE = frozenset(
    ".pl .pm .t .r .m .mm .f .f90 .f95 .for .asm .s .vim .el .lisp .clj .cljs .erl .hrl .fs .fsx .vb .dart .zig "
    ".nim .d .pas .ps1 .bat .cmd .awk .tcl .sol .v .sv .vhd .vhdl .groovy .vue .svelte .astro .coffee .hx .cr "
    ".rkt .scm .cocci .metal .glsl .hlsl .wgsl".split()
)
_NAMES = {
    "makefile": "data",
    "gnumakefile": "data",
    "dockerfile": "data",
    "containerfile": "data",
    "cmakelists.txt": "data",
    "requirements.txt": "data",
    "jenkinsfile": "ruby",
    "rakefile": "ruby",
    "gemfile": "ruby",
    "vagrantfile": "ruby",
    "podfile": "ruby",
    "build": "python",
    "workspace": "python",
    "sconstruct": "python",
}
# The ending of a manual page's name: printf.3, git.1, ssl.3ssl.
_MAN = re.compile(r".+\.[1-9][a-z]{0,4}")

# Files that are never text. Their content is not looked at.
BINARY_SUFFIXES = frozenset(
    ".png .jpg .jpeg .gif .bmp .ico .webp .tif .tiff .psd .xcf .avif .heic .mp3 .mp4 .m4a .m4v .wav .ogg .oga "
    ".ogv .flac .avi .mov .mkv .webm .zip .tar .tgz .tbz .txz .bz2 .xz .zst .lz4 .lzma .7z .rar .jar .war .ear "
    ".whl .egg .deb .rpm .dmg .iso .exe .dll .so .dylib .a .o .obj .lib .pyc .pyo .pyd .class .wasm .bin .dat .db "
    ".sqlite .sqlite3 .mdb .npy .npz .npz .pt .pth .safetensors .onnx .gguf .ckpt .pkl .pickle .h5 .hdf5 .parquet "
    ".arrow .feather .orc .avro .tfrecord .ttf .otf .woff .woff2 .eot .doc .xls .xlsx .ppt .pptx .odt .ods .odp "
    ".epub .mobi .djvu .ps .eps .mo .gmo .rlib .rmeta .swp .keystore .p12 .pfx .der .crt .cer .pem .gpg .sig .asc "
    ".nbc .nbi".split()
)
# Files that a program writes: nobody searches for their lines.
_GENERATED_NAMES = frozenset(
    "package-lock.json npm-shrinkwrap.json yarn.lock pnpm-lock.yaml bun.lock poetry.lock pipfile.lock uv.lock "
    "pdm.lock cargo.lock composer.lock gemfile.lock podfile.lock flake.lock go.sum go.work.sum mix.lock "
    "pubspec.lock packages.lock.json gradle.lockfile record searchindex.js objects.inv".split()
)
_GENERATED_ENDINGS = (".min.js", ".min.css", ".map", ".pb.go", "_pb2.py", "_pb2_grpc.py", ".pb.cc", ".pb.h", ".g.dart")

_TEST_FOLDERS = frozenset("test tests testing spec specs __tests__ testdata e2e".split())
_TEST_NAME = re.compile(
    r"(test_.*|conftest|tests?)\.pyi?|.*_tests?\.(py|go|cc|cpp|c|rs|exs|dart)|.*[._-](test|spec)s?\.[cm]?[jt]sx?"
    r"|.*(Tests?|Spec|TestCase|IT)\.(java|kt|scala|cs|swift|groovy|php)|.*_(spec|test)\.rb|.*_test\.(lua|ml|jl)|.*\.t",
)


def format_of(name: str) -> str:
    """The format of a file by its name: a language of `LANGUAGE_OF_SUFFIX`, a key of formats, "code", "man", or ""."""
    base = name.rpartition("/")[2]
    lowered = base.lower()
    if lowered in _NAMES:
        return _NAMES[lowered]
    stem, dot, ending = lowered.rpartition(".")
    suffix = dot + ending
    if base.endswith((".C", ".H")):
        return "cpp"
    if suffix == ".h":
        return "header"
    if suffix in LANGUAGE_OF_SUFFIX:
        return LANGUAGE_OF_SUFFIX[suffix]
    if suffix in FORMAT_OF_SUFFIX:
        return FORMAT_OF_SUFFIX[suffix]
    if suffix in _OTHER_CODE:
        return "code"
    if stem in ("dockerfile", "makefile", "containerfile"):
        return "data"
    return "man" if _MAN.fullmatch(lowered) else ""


def is_binary_name(name: str) -> bool:
    """Whether a file's ending says that it is no text."""
    lowered = name.lower()
    return lowered[lowered.rfind(".") :] in BINARY_SUFFIXES or ".so." in lowered


def is_generated_name(name: str) -> bool:
    """Whether a file's name says that a program wrote it: a lock file, a minified script, a source map."""
    lowered = name.lower()
    return lowered in _GENERATED_NAMES or lowered.endswith(_GENERATED_ENDINGS)


def kind_of(name: str, file_format: str) -> str:
    """The kind ("code", "test", "docs" or "data") of a path relative to the folder and its format."""
    if file_format in FORMATS_OF_DOCS:
        return "docs"
    if file_format == "data":
        return "data"
    *folders, base = name.split("/")
    is_test = _TEST_NAME.fullmatch(base) or not _TEST_FOLDERS.isdisjoint(folder.lower() for folder in folders)
    return "test" if is_test else "code"


FORMATS_OF_DOCS = frozenset(["", "markdown", "rst", "html", "text", "pdf", "docx", "notebook", "man"])
