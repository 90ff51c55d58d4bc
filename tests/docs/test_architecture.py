"""docs/architecture.md against the code: every module is in its tree, and its flows are chains of real calls."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "lift3d_cli"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
METHOD = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
MODULES = {
    path.relative_to(SOURCE).with_suffix("").as_posix() for path in SOURCE.rglob("*.py") if path.name != "__init__.py"
} - {"__main__", "procedural/__main__"}
TREE, *FLOWS = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


# ---- the tree --------------------------------------------------------------------------------------------------------


def tree_entries(text: str) -> dict[str, set[str]]:
    """The modules of every package in the tree, by `lifting/proposal`; top modules stand for themselves, without any.

    A line with a dash lists modules, with remarks in brackets.
    """
    entries: dict[str, set[str]] = {}
    package = parent = ""
    for line in text.splitlines()[1:]:
        if head := re.match(r"(  |    )(\w+)(/|\.py) ", line):
            parent = head[2] if head[1] == "  " else parent
            package = head[2] if head[1] == "  " else f"{parent}/{head[2]}"
            entries[package] = set()
        else:
            listed = re.fullmatch(r" +- (.*)", line)
            entries[package] |= set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", listed[1])))
    return entries


def test_tree_is_that_of_the_code():
    real: dict[str, set[str]] = {}
    for path in MODULES:
        package, _, name = path.rpartition("/")
        if package:
            real.setdefault(package, set()).add(name)
        else:
            real[name] = set()
    assert tree_entries(TREE) == real


def test_order_of_imports_is_the_one_that_is_tested():
    layers = runpy.run_path(str(ROOT / "tests" / "package" / "test_layers.py"))["LAYERS"]
    order = re.search(r"do not import each other: (.*?)\.\n", PAGE, re.DOTALL)[1]
    stated = [set(re.findall(r"`(\w+)`", layer)) for layer in order.split(";")]
    assert stated == [layer for layer in layers if layer != {"__main__"}]
    level = {name: i for i, layer in enumerate(stated) for name in layer}
    shown = [level[name] for name in tree_entries(TREE) if "/" not in name]
    assert shown == sorted(shown)


# ---- the flows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A line of a flow: `name` as module.function, what it is `called`, the name of its `caller`, and the `note`."""

    name: str
    called: str
    caller: str
    note: str


def steps(flow: str) -> Iterator[Step]:
    """The lines of a flow; each is called by the nearest one above that is less indented."""
    callers: list[str] = []
    for line in filter(str.strip, flow.splitlines()):
        indent, name, alias, note = re.fullmatch(r"( *)([\w.]+)(?: as (\w+))?(?: {2,}(.*))?", line).groups()
        depth = len(indent) // 2
        callers = [*callers[:depth], name]
        yield Step(name, alias or name.rpartition(".")[2], callers[depth - 1] if depth else "", note or "")


@cache
def module(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def definition(name: str) -> tuple[ast.Module, ast.AST]:
    """The module and the node of a function, method or class that is named as `lifting.renderer.Renderer.render`."""
    parts = name.split(".")
    split = next(i for i in range(len(parts), 0, -1) if "/".join(parts[:i]) in MODULES)
    node = whole = module((SOURCE / "/".join(parts[:split])).with_suffix(".py"))
    for part in parts[split:]:
        node = next(n for n in node.body if getattr(n, "name", "") == part)
    assert node is not whole, f"{name} is a module"
    return whole, node


def used_names(whole: ast.Module, node: ast.AST) -> set[str]:
    """The names that a function reads, each as the module that it was imported from calls it."""
    original = {
        alias.asname: alias.name
        for n in [*whole.body, *ast.walk(node)]
        if isinstance(n, ast.ImportFrom)
        for alias in n.names
        if alias.asname
    }
    names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    names += [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    return {original.get(name, name) for name in names}


STEPS = [step for flow in FLOWS for step in steps(flow)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_function_of_a_flow_is_called_by_the_one_above_it(step):
    definition(step.name)
    if step.caller:
        assert step.called in used_names(*definition(step.caller)), f"{step.caller} does not call {step.called}"


def test_a_function_that_is_not_called_is_found_out():
    assert "fill_unseen" not in used_names(*definition("lifting.renderer.Renderer.render"))
    with pytest.raises(StopIteration):
        definition("lifting.renderer.Renderer.no_such_method")


def test_flow_of_a_pose_goes_through_the_steps_of_the_method():
    target = re.search(r"^## One target frame\n(.*?)^## ", METHOD, re.MULTILINE | re.DOTALL)[1]
    method = re.findall(r"^(\d)\. \*\*(.*?)\.?\*\*(.*?)(?=^\d\. |\Z)", target, re.MULTILINE | re.DOTALL)
    marked = [step for step in STEPS if re.match(r"\d\. ", step.note)]
    assert [step.note for step in marked] == [f"{number}. {title}" for number, title, _ in method]
    for step, (_, title, text) in zip(marked, method, strict=True):
        named = re.findall(r"`([\w/]+)\.py`", text)
        assert any(step.name.startswith(file.replace("/", ".") + ".") for file in named), f"{title} is not in {named}"


# ---- where to look ---------------------------------------------------------------------------------------------------


def test_files_to_look_into_exist():
    rows = re.findall(r"^\| .*\? \| `(.*)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 13
    assert {row.removesuffix(".py") for row in rows} <= MODULES
