"""The rooms and the one direction of imports between them."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ORDER = ["data_pipeline", "vae_dist", "evaluation", "launch"]


def imported_rooms(source: str) -> set[str]:
    """Rooms that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names} & set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_imports_go_one_way(room: str) -> None:
    allowed = set(ORDER[: ORDER.index(room) + 1])
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        wrong = imported_rooms(file.read_text()) - allowed
        assert not wrong, f"{file} imports {wrong}"


def test_a_wrong_import_is_seen() -> None:
    assert imported_rooms("def f():\n    from launch.cli import main") == {"launch"}


def test_data_pipeline_knows_neither_accelerate_nor_models() -> None:
    for file in (ROOT / "data_pipeline").rglob("*.py"):
        assert "accelerate" not in {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }, file


def test_no_room_for_leftovers() -> None:
    names = {p.stem for room in ORDER for p in (ROOT / room).rglob("*")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_nothing_is_unpickled() -> None:
    """torch.load and np.load say that they do not; nobody imports pickle."""
    for room in ORDER:
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    assert "pickle" not in {alias.name for alias in node.names}, file
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    if called == "torch.load":
                        assert given.get("weights_only") == "True", f"{file}:{node.lineno}"
                    if called in ("np.load", "numpy.load"):
                        assert given.get("allow_pickle") == "False", f"{file}:{node.lineno}"


def imported_modules(tree: ast.AST) -> set[str]:
    """Modules that a file imports, in functions too, but not for type checkers alone."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        names |= imported_modules(node)
    return names


def test_there_is_no_circle_of_imports() -> None:
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for room in ORDER
        for file in (ROOT / room).rglob("*.py")
        if file.name != "__init__.py"
    }
    graph = {
        name: imported_modules(ast.parse(file.read_text())) & files.keys()
        for name, file in files.items()
    }
    assert sum(map(len, graph.values())) > 100
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
