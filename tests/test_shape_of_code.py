"""Rules of the code that a test can check: sizes, broad excepts, state of the process, private names in tests."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import ROOT, SOURCES, module_of

TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FILE_LINES = 150
# Files that may be longer than MAX_FILE_LINES.
LONG_FILES: set[str] = set()
# Functions that may be longer than MAX_FUNCTION_LINES, beside kernels (KERNEL_DECORATORS): the training loop.
LONG_FUNCTIONS = {"colbertz.training.loop._train"}
KERNEL_DECORATORS = ("njit", "triton.jit", "intrinsic")

# Where a broad `except` may end without raising: a worker process sends the error to its parent, and threads of the
# server and of the resident process give it to the client whose request caused it, so that they live on for the others.
BROAD_EXCEPTS = {
    "colbertz.models.workers",
    "colbertz.resident.server",
    "colbertz.server.batching",
    "colbertz.server.writer",
}
# Functions that change the logging of the whole process, and who may call them.
LOGGING_STATE = {"setLevel", "addFilter", "addHandler", "basicConfig", "captureWarnings"}
MAY_CONFIGURE_LOGGING = ("colbertz.cli",)
# Settings of torch for the whole process, and who may change them: the threads of kernels, and worker processes.
TORCH_STATE = {"set_num_threads", "set_num_interop_threads", "set_default_device", "set_default_dtype"}
MAY_SET_TORCH = {"colbertz.kernels.cpu.threads", "colbertz.models.workers"}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its decorators and its docstring."""
    last_line = function.end_lineno or function.lineno
    lines = last_line - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith(KERNEL_DECORATORS) for decorator in function.decorator_list)


def test_files_are_short() -> None:
    lines = {module_of(path): path.read_text().count("\n") for path in SOURCES}
    too_long = {module: n for module, n in lines.items() if n > MAX_FILE_LINES and module not in LONG_FILES}
    assert not too_long, f"more than {MAX_FILE_LINES} lines: {too_long}"
    assert statistics.median(lines.values()) <= MAX_MEDIAN_FILE_LINES
    assert lines.keys() >= LONG_FILES, "an exception for a file that does not exist"


def test_functions_are_short() -> None:
    lines = {
        f"{module_of(path)}.{function.name}": code_lines(function)
        for path in SOURCES
        for function in functions(ast.parse(path.read_text()))
        if not is_kernel(function)
    }
    too_long = {name: n for name, n in lines.items() if n > MAX_FUNCTION_LINES and name not in LONG_FUNCTIONS}
    assert not too_long, f"more than {MAX_FUNCTION_LINES} lines: {too_long}"
    assert lines.keys() >= LONG_FUNCTIONS, "an exception for a function that does not exist"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_broad_except_raises_again(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ExceptHandler) or module_of(path) in BROAD_EXCEPTS:
            continue
        caught = "" if node.type is None else ast.unparse(node.type)
        if caught in ("", "Exception", "BaseException"):
            raises = isinstance(node.body[-1], ast.Raise)
            assert raises, f"{path}:{node.lineno}: `except {caught}` must end with `raise`"


def called_names(path: Path) -> Iterator[tuple[str, int]]:
    """The last part of each called name, with its line: setLevel for logging.getLogger(name).setLevel(…)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2], node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_the_library_does_not_change_the_state_of_the_process(path: Path) -> None:
    module = module_of(path)
    for name, line in called_names(path):
        if not module.startswith(MAY_CONFIGURE_LOGGING):
            assert name not in LOGGING_STATE, f"{path}:{line}: {name} changes the logging of the whole process"
        if module not in MAY_SET_TORCH:
            assert name not in TORCH_STATE, f"{path}:{line}: {name} changes torch for the whole process"


def private_patches(path: Path) -> Iterator[str]:
    """Where a test replaces a private name of colbertz: `setattr(module, "_NAME", …)`, "module._NAME", mock.patch."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        if not function.endswith(("setattr", "delattr", "patch", "patch.object")):
            continue
        names = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in names:
            last = name.rpartition(".")[2]
            if last.startswith("_") and not last.startswith("__"):
                yield f"{path}:{node.lineno}: {name}"


def test_tests_do_not_replace_private_names() -> None:
    """What a test needs to set is a parameter."""
    patches = [patch for path in TESTS for patch in private_patches(path)]
    assert not patches, "\n".join(patches)


def test_tests_do_not_import_private_names() -> None:
    imports = [
        f"{path}:{node.lineno}: {alias.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("colbertz")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not imports, "\n".join(imports)
