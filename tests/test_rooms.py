"""The house: which files lie where, and that imports run one way."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import appearance

SCRIPTS = {
    *("model", "resnet", "train", "train_multiGPU", "test", "evaluate", "datasets", "utils"),
    *("feature_extractor", "export"),
}
PACKAGE = ROOT / "appearance"
ROOMS = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imported(path: Path) -> list[str]:
    """Every module that a file imports, wherever in it: dotted names, `from a import b` as a.b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def floor(name: str) -> int:
    """Of a dotted name inside the package: 0 for `appearance/*.py`, then the folders in their order."""
    folder = name.split(".")[1]
    return appearance.ORDER.index(folder) + 1 if folder in appearance.ORDER else 0


def inside(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def violations(path: Path) -> list[str]:
    """Imports of a script, and of a folder that comes later than the file's own."""
    found = []
    for name in imported(path):
        first = name.split(".")[0]
        up = first == "appearance" and name != "appearance" and floor(name) > floor(inside(path))
        if first in SCRIPTS or up:
            found.append(f"{inside(path)} -> {name}")
    return found


def test_the_top_level_holds_the_scripts_and_nothing_else():
    assert {path.stem for path in ROOT.glob("*.py")} == SCRIPTS


def test_each_folder_of_the_package_is_in_the_order_and_says_what_happens_in_it():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(appearance.ORDER)
    for folder in appearance.ORDER:
        text = (PACKAGE / folder / "__init__.py").read_text()
        assert len(text.splitlines()) == 1, folder
        assert len(ast.get_docstring(ast.parse(text)).split()) > 4, folder


@pytest.mark.parametrize("path", ROOMS, ids=inside)
def test_imports_run_one_way(path):
    assert violations(path) == []


def test_no_circle_inside_a_folder():
    names = {inside(path): path for path in ROOMS}
    arrows = {
        name: {room for wanted in imported(path) for room in (wanted, wanted.rpartition(".")[0]) if room in names}
        for name, path in names.items()
    }
    while arrows:  # take away what imports nothing that is left
        free = [name for name, wanted in arrows.items() if not wanted & set(arrows)]
        assert free, f"a circle among {sorted(arrows)}"
        for name in free:
            del arrows[name]


@pytest.mark.parametrize("line", ["import train", "from utils import World", "from appearance.training import recipe"])
def test_a_wrong_import_is_seen(line, tmp_path, monkeypatch):
    path = tmp_path / "appearance" / "data" / "room.py"
    path.parent.mkdir(parents=True)
    path.write_text(f"def work():\n    {line}\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert len(violations(path)) == 1
