"""Figures on the pages are rows of results/*.csv, each row says how it was measured, plots are drawn from the rows."""

import csv
import re
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import ROOT, run_script
from PIL import Image
from test_documented_commands import FENCED, commands, complaints

PAGES = [
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
    "weights/README.md",
    "README.md",
]
FILES = sorted((ROOT / "results").glob("*.csv"))
PAIR = re.compile(r"(?<![\d.])(\d{1,3}\.\d)\** / \**(\d{1,3}\.\d)(?![\d.])")  # rank-1 / mAP
PERCENT = re.compile(r"(?<![\d.])(\d{1,3}\.\d+) ?%")
SIDE_BY_SIDE = (("rank1", "mAP"), ("rank1_sd", "mAP_sd"), ("known_IDR", "new_IDR"))
WORDS = {"command", "source", "commit", "date", "machine", "seed", "what"}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def quoted(text: str) -> tuple[set[tuple[str, str]], set[str]]:
    """Pairs of rank-1 and mAP, and single figures in percent, on a page; blocks of code and output do not count."""
    text = FENCED.sub("", text)
    pairs = set(PAIR.findall(text))
    return pairs, set(PERCENT.findall(PAIR.sub("", text)))


def test_what_counts_as_a_quoted_figure():
    text = "it has **68.5** / 54.3, or 66.9 / **54.9** with 12.5 % more, at 0.25 / 0.5\n```\nkeeps 87.9%\n```\n"
    assert quoted(text) == ({("68.5", "54.3"), ("66.9", "54.9")}, {"12.5"})


@pytest.mark.parametrize("page", PAGES)
def test_figures_on_the_pages_are_in_the_csv_files(page):
    known = [row for path in FILES for row in rows(path)]
    pairs, figures = quoted((ROOT / page).read_text("utf-8"))
    measured_pairs = {(row.get(first), row.get(second)) for row in known for first, second in SIDE_BY_SIDE}
    measured = {value for row in known for key, value in row.items() if key not in WORDS}
    assert pairs <= measured_pairs, pairs - measured_pairs
    assert figures <= measured, figures - measured


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_row_says_where_its_figures_come_from(path):
    for number, row in enumerate(rows(path), start=2):
        where = f"{path.name}, line {number}"
        assert None not in (*row, *row.values()), f"{where}: another number of columns"
        assert row["command"] or row["source"], where
        assert re.fullmatch(r"|[0-9a-f]{7}( [0-9a-f]{7})*", row["commit"]), where
        assert re.fullmatch(r"|\d{4}-\d\d-\d\d", row["date"]), where
        assert re.fullmatch(r"|\d+( \d+)*", row["seed"]), where
        for key in ("rank1", "mAP", "mINP", "IDF1", "minutes"):
            assert not row.get(key) or 0 <= float(row[key]) <= 100, f"{where}: {key}"


def test_the_commands_of_the_rows_are_understood(tmp_path):
    """By the scripts as they are now: when a flag goes, its rows have to go as well."""
    found = defaultdict(set)
    for command in {row["command"] for path in FILES for row in rows(path)}:
        for program, script, *arguments in commands(command):
            assert program == "python", command
            if script != "-m":
                found[script].add(tuple(arguments))
    assert {"train.py", "benchmarks/recipe.py", "benchmarks/track_table.py"} <= set(found)
    assert complaints({script: sorted(map(list, lists)) for script, lists in found.items()}, tmp_path) == []


def test_the_plots_are_drawn(tmp_path):
    done = run_script("results/plots.py", "--output", tmp_path, cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    shown = re.findall(r"!\[[^]]+\]\((\w+\.png)\)", (ROOT / "docs/results.md").read_text("utf-8"))
    assert {path.name for path in tmp_path.iterdir()} == set(shown)
    for name in shown:
        with Image.open(tmp_path / name) as new, Image.open(ROOT / "docs" / name) as there:
            assert new.size == there.size
            assert new.width >= 1000
