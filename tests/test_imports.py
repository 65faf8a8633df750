"""The architecture as tests: who may import whom, what is never used, and what `import colbertz` loads."""

import ast
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from sources import SOURCES, imports_of, module_of

import colbertz

# The floors of the house, lowest first. A part may import the parts of lower floors, and parts of its own floor only
# where NEIGHBOURS says so. Every part is listed, and no part imports `cli`.
FLOORS: list[set[str]] = [
    {"kernels"},
    {"errors"},
    {"ragged", "files", "untrusted", "document", "progress"},
    {"maxsim", "text"},
    {"corpus", "models", "index"},
    {"evaluation"},
    {"training", "distillation"},
    {"display"},
    {"explanation"},
    {"searcher"},
    {"folders"},
    {"resident"},
    {"integrations", "recipes", "server"},
    {"cli"},
]
NEIGHBOURS: dict[str, set[str]] = {}
# Inside the index, `search` and `write` do not import each other; both use `store`.
ROOMS: dict[str, set[str]] = {
    "colbertz.index.store": set(),
    "colbertz.index.search": {"colbertz.index.store"},
    "colbertz.index.write": {"colbertz.index.store"},
}
PEERS = {"transformers", "sentence_transformers", "pylate", "fast_plaid"}


def part(module: str) -> str:
    """The first level of a module's name: index for colbertz.index.store.codec."""
    return module.split(".")[1] if "." in module else ""


def room(module: str) -> str:
    """The first three levels of a module's name: colbertz.index.store for colbertz.index.store.codec."""
    return ".".join(module.split(".")[:3])


def allowed(importer: str) -> set[str]:
    """The parts that a part may import."""
    floor = next(floor for floor, parts in enumerate(FLOORS) if importer in parts)
    lower = {part for parts in FLOORS[:floor] for part in parts}
    return {importer, "__version__", *NEIGHBOURS.get(importer, ()), *lower}


MODULES = {module_of(path): path for path in SOURCES}


def modules_imported(module: str) -> set[str]:
    """The modules of the package that a module imports by name.

    Imports inside functions and under `if TYPE_CHECKING` are among them. The package `colbertz` itself is not: it names
    the public classes and loads them on first use.
    """
    names = {name for name in imports_of(MODULES[module]) if name.split(".")[0] == "colbertz"}
    used = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    return {name for name in used if name in MODULES} - {"colbertz", module}


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others; `imports` maps modules to what they use."""
    reachable = {module: set(used) for module, used in imports.items()}
    for middle in imports:
        for module in imports:
            if middle in reachable[module]:
                reachable[module] |= reachable[middle]
    groups = {tuple(sorted(other for other in reachable[m] if m in reachable.get(other, ()))) for m in imports}
    return sorted(list(group) for group in groups if group)


def test_circles_are_found() -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"a", "f"}, "f": {"e"}, "g": {"a"}}
    assert circles(imports) == [["a", "b", "c"], ["e", "f"]]
    # An import inside a function counts.
    assert "colbertz.models.encoders.untraced" in modules_imported("colbertz.models.encoders.attention")


def test_no_import_circles() -> None:
    """Imports for types only are counted too: a module should be understood without its users."""
    found = circles({module: modules_imported(module) for module in MODULES})
    assert not found, f"these modules import each other: {found}"


def test_every_part_has_a_floor() -> None:
    parts = {part(module_of(path)) for path in SOURCES} - {"", "__main__"}
    assert parts == set().union(*FLOORS)


@pytest.mark.parametrize("path", [p for p in SOURCES if part(module_of(p)) not in ("", "__main__")], ids=module_of)
def test_import_direction(path: Path) -> None:
    imported = {part(name) for name in imports_of(path) if name.split(".")[0] == "colbertz"}
    wrong = imported - allowed(part(module_of(path)))
    assert not wrong, f"{module_of(path)} must not import {wrong}"


@pytest.mark.parametrize("path", [p for p in SOURCES if room(module_of(p)) in ROOMS], ids=module_of)
def test_rooms_of_the_index(path: Path) -> None:
    importer = room(module_of(path))
    imported = {room(name) for name in imports_of(path) if name.startswith("colbertz.index")}
    wrong = imported - ROOMS[importer] - {importer}
    assert not wrong, f"{module_of(path)} must not import {wrong}"


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    """Imports inside functions and for types only count too."""
    modules = {module_of(path): path for path in SOURCES}

    def imported_module(name: str) -> str:
        """The module itself, or the module that has the imported name."""
        return name if name in modules else name.rpartition(".")[0]

    graph = {
        # `colbertz` itself is left out: it imports the public names for type checkers, and has `__version__`.
        module: {imported_module(name) for name in imports_of(path)} & modules.keys() - {module, "colbertz"}
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_peers_and_pickle_are_never_used(path: Path) -> None:
    imported = set(imports_of(path))
    roots = {name.split(".")[0] for name in imported}
    assert not any(name.startswith("pickle.") for name in imported)
    assert not roots & {*PEERS, "dill", "joblib", "marshal", "shelve"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr == "UnpicklingError", f"{path}:{node.lineno}: pickle.{node.attr}"
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        assert keywords.get("allow_pickle") is not True, f"{path}:{node.lineno}: allow_pickle"
        assert keywords.get("trust_remote_code") is not True, f"{path}:{node.lineno}: trust_remote_code"
        if ast.unparse(node.func) == "torch.load":
            assert keywords.get("weights_only") is True, f"{path}:{node.lineno}: torch.load without weights_only=True"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_colbertz_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "numba", "scipy", "tokenizers", "huggingface_hub", "jsonargparse", *PEERS}
    code = f"import sys, colbertz, colbertz.cli; print(*sorted({heavy!r} & set(sys.modules)))"
    assert run_python(code) == ""


def test_using_colbertz_never_loads_a_peer() -> None:
    code = "import sys, colbertz; [getattr(colbertz, name) for name in colbertz.__all__]"
    code += f"; print({PEERS!r} & set(sys.modules))"
    assert run_python(code) == "set()"


def test_public_names_resolve() -> None:
    for name in colbertz.__all__:
        assert getattr(colbertz, name) is not None
    assert dir(colbertz) == sorted(colbertz.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        colbertz.nonsense  # noqa: B018


def test_maxsim_stays_the_function_when_its_module_is_imported() -> None:
    """`colbertz.maxsim` is the name of a function and of its module; importing the module sets the attribute to it."""
    assert (
        run_python("import colbertz, colbertz.maxsim; from colbertz import maxsim; print(callable(maxsim))") == "True"
    )


def test_kernels_is_not_importable_by_itself(tmp_path: Path) -> None:
    """Transformers looks for a package with the name `kernels`; it must not find ours."""
    code = "import importlib.util as u, colbertz.kernels; print(u.find_spec('kernels'))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == "None"
