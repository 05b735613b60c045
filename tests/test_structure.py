"""The shape of the repository: names resolve inside it, files stay small, modules say what they are."""

import ast
import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "core", "schemas", "operators", "features", "models", "pipelines", "jobs", "gateway", "stack", "cli",
    "bench",
)  # fmt: skip
LONGEST = 500


def python_files() -> list[Path]:
    """Every Python file that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return sorted(path for line in listed.stdout.splitlines() if (path := ROOT / line).exists())


FILES = python_files()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_top_level_name_resolves_inside_the_repository(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is no package"
    places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    assert places == [ROOT / name]
    assert spec.origin is not None, f"{name} has no __init__.py"


def test_no_folder_is_named_after_a_library() -> None:
    libraries = {"faust", "pyflink", "feast", "kafka", "redis", "onnx", "duckdb", "xgboost"}
    named = {path.parent.name for path in FILES if path.name == "__init__.py"}
    assert not named & libraries


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short(path: Path) -> None:
    count = len(path.read_text(encoding="utf-8").splitlines())
    assert count <= LONGEST, f"{count} lines: split it by ideas"


PUBLIC = [
    path
    for path in FILES
    if path.relative_to(ROOT).parts[0] in FOLDERS
    and (path.name == "__init__.py" or not path.name.startswith("_"))
]


@pytest.mark.parametrize(
    "path",
    [path for path in PUBLIC if path.read_text(encoding="utf-8").strip() or path.parent.parent == ROOT],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_public_module_has_a_docstring(path: Path) -> None:
    """An empty `__init__.py` below the top level is only a marker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "begin with what it is, in one line"


def ready_classes(tree: ast.Module) -> set[str]:
    """The Structs of a module that are made ready: by name, or as records."""
    return {
        one.name
        for one in ast.walk(tree)
        if isinstance(one, ast.ClassDef)
        and {"ready", "record"} & {ast.unparse(by).partition("(")[0] for by in one.decorator_list}
    }


def decoded_types(tree: ast.Module) -> set[str]:
    """The classes that calls of msgspec's `decode` and `convert` name; not those of a `Decoder`."""
    found: set[str] = set()
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not ast.unparse(call.func).startswith("msgspec."):
            continue
        kinds = [given.value for given in call.keywords if given.arg == "type"]
        if ast.unparse(call.func) == "msgspec.convert":
            kinds += call.args[1:2]
        for kind in kinds:
            names = [part for part in ast.walk(kind) if isinstance(part, ast.Name | ast.Attribute)]
            found |= {ast.unparse(name).rpartition(".")[2] for name in names}
    return {name for name in found if name.lstrip("_")[:1].isupper()}


def test_what_threads_may_decode_is_ready_before_they_do() -> None:
    """See `core.structs.ready`."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PUBLIC}
    ready = set().union(*map(ready_classes, trees.values()))
    assert {"Unit", "Configuration", "Decision"} <= ready
    for path, tree in trees.items():
        assert decoded_types(tree) <= ready, f"{path.relative_to(ROOT)}: decorate it with @ready"
