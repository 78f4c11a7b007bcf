"""The rules of the house as a test: import direction, the torch-free half, sizes and banned names.

The order of `ROWS` is the architecture: a module may import from its own row's package or rows above.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS: list[set[str]] = [
    {"dendrite_core.errors", "dendrite_core.params", "dendrite_core.config"},
    {"dendrite_core.cache", "dendrite_core.text", "dendrite_core.models"},
    {"dendrite_core.batching"},
    {"dendrite_core.forward", "dendrite_core.sampling"},
    {"dendrite_core.engine"},
    {"dendrite_core.search"},
    {"dendrite_core"},
    {"dendrite_server"},
]
TORCH_FREE = ("dendrite_core.cache", "dendrite_core.text", "dendrite_core.batching", "dendrite_server")
SERVER_MAY_IMPORT = ("engine", "search", "text", "params", "errors", "config")
MAX_LINES = 420
MAX_FILES = 9
SOURCES = sorted(p for top in ("dendrite_core", "dendrite_server") for p in (ROOT / top).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def row_of(module: str) -> tuple[int, str]:
    """The row and unit a module belongs to; the longest matching name wins."""
    matches = [
        (len(unit), row, unit)
        for row, units in enumerate(ROWS)
        for unit in units
        if module == unit or module.startswith(unit + ".")
    ]
    _, row, unit = max(matches)
    return row, unit


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_up_the_house(path: Path) -> None:
    row, unit = row_of(module_name(path))
    for name in imports_of(path):
        if not name.startswith(("dendrite_core", "dendrite_server")):
            continue
        target_row, target_unit = row_of(name)
        assert target_row < row or target_unit == unit or target_row == row == 0, f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_bookkeeping_does_not_import_torch(path: Path) -> None:
    if module_name(path).startswith(TORCH_FREE):
        assert not [name for name in imports_of(path) if name.split(".")[0] == "torch"]


SERVER = [path for path in SOURCES if path.is_relative_to(ROOT / "dendrite_server")]


@pytest.mark.parametrize("path", SERVER, ids=module_name)
def test_server_speaks_to_the_public_half_only(path: Path) -> None:
    for name in imports_of(path):
        if name.startswith("dendrite_core."):
            assert name.split(".")[1] in SERVER_MAY_IMPORT, f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_open_with_what_they_own_and_stay_readable(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES, f"{path} has {len(lines)} lines"
    if lines:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it owns"


def test_folders_stay_small() -> None:
    for folder in {path.parent for path in SOURCES}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MAX_FILES, f"{folder} has {len(files)} files"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_banned_names(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Util")), f"{path}: {node.name}"
        if isinstance(node, ast.Name):
            assert node.id != "TYPE_CHECKING", f"{path}: TYPE_CHECKING escape"
        if isinstance(node, ast.Global):
            raise AssertionError(f"{path}: module global {node.names}")
