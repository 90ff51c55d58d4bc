"""The package keeps its shape: who imports whom, who prints, and how long files and functions may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import lift3d_cli

ROOT = Path(lift3d_cli.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From top to bottom: a part imports from lower layers only, and never from another part of its own layer.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"report"},
    {"evaluation", "training"},
    {"pipeline"},
    {"models", "lifting"},
    {"procedural"},
    {"weights", "scene", "cache"},
    {"ops"},
    {"geometry", "machine"},
    {"errors", "config"},
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}

MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 50


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: its folder, or its own name at the top."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but for what stands under `if TYPE_CHECKING:`."""
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        children = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from without_type_checking(child)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports when it runs, at its top or in a function, with the line."""
    for node in without_type_checking(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno
            # `from lift3d_cli.models import registry` imports a module of it; names of classes do no harm here.
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_part_has_its_place_in_the_layers():
    assert {part_of(path) for path in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_go_down_the_layers(path):
    mine = part_of(path)
    for module, line in imports(path):
        names = module.split(".")
        if names[0] != "lift3d_cli" or len(names) < 2 or names[1] not in LEVEL or names[1] == mine:
            continue
        assert mine != "__init__", f"{path}:{line}: the package itself imports {module}"
        assert LEVEL[names[1]] > LEVEL[mine], f"{path}:{line}: {mine} imports {module}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_only_the_command_line_knows_typer_and_rich(path):
    if part_of(path) == "cli":
        return
    found = {module.split(".")[0] for module, _ in imports(path)}
    assert not found & {"typer", "click", "rich"}


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """The last name of everything that a file calls, with the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            yield name, node.lineno


@pytest.mark.parametrize(
    ("name", "home"), [("print", "cli/console.py"), ("grid_sample", "geometry/grids.py"), ("echo", "cli/app.py")]
)
def test_is_called_in_one_file_only(name, home):
    callers = {ids(path) for path in FILES if any(called == name for called, _ in calls(path))}
    assert callers == {home}


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_importing_a_file_does_nothing_but_define(path):
    # No seeds, no global settings, no handlers. The command line registers its commands.
    if ids(path) == "cli/app.py":
        return
    for node in tree(path).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            raise AssertionError(f"{path}:{node.lineno}: does something when it is imported")


@pytest.mark.parametrize("path", [*FILES, *Path(__file__).parent.rglob("*.py")], ids=lambda path: path.name)
def test_file_is_not_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_functions_are_not_too_long(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # A command's signature is the table of its options.
            start = node.body[0].lineno if part_of(path) == "cli" else node.lineno
            lines = node.end_lineno - start + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_file_says_what_it_is_for(path):
    if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
        return
    assert ast.get_docstring(tree(path))


# Imperatives that end in s.
ENDS_IN_S = {"Address", "Compress", "Express", "Guess", "Pass", "Process"}
# What a docstring that is no sentence in the imperative begins with. A property may be a noun phrase.
NO_VERBS = """a an the this that these those it its each every all any both some no not one two three of in on at by for
from to with without as if what which who whom whose where when why how whether true false means mean"""


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_docstring_of_a_function_begins_with_a_verb(path):
    for node in ast.walk(tree(path)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or not ast.get_docstring(node):
            continue
        if any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
            continue
        first = ast.get_docstring(node).split()[0].rstrip(",;:")
        is_word = first.isalpha() and first.istitle() and first.lower() not in NO_VERBS.split()
        # "Returns" is no imperative.
        is_imperative = is_word and (not first.endswith("s") or first in ENDS_IN_S)
        assert is_imperative, f"{path}:{node.lineno}: {node.name} begins with {first!r}"


def test_name_of_a_class_has_one_meaning():
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(ids(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_no_drawers_for_odds_and_ends():
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    assert not names & {"utils", "util", "helpers", "misc", "common"}
