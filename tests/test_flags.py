"""Flags that are numbers: one home for their types and for what a wrong value is told."""

import argparse
import ast

import pytest
from conftest import ROOT

from appearance import flags

SCRIPTS = [path for pattern in ("*.py", "examples/*.py", "benchmarks/*.py") for path in ROOT.glob(pattern)]


@pytest.mark.parametrize(
    ("kind", "good", "bad", "wanted"),
    [
        (flags.positive, {"1": 1, "20": 20}, ("0", "-1", "1.5", "x"), "a whole number above 0"),
        (flags.count, {"0": 0, "7": 7}, ("-1", "0.5", ""), "a whole number from 0 up"),
        (flags.share, {"0": 0, "0.25": 0.25, "1": 1}, ("-0.1", "1.1", "nan"), "a number from 0 to 1"),
        (flags.share_above_zero, {"1e-9": 1e-9, "1": 1}, ("0", "1.01", "nan"), "a number above 0, up to 1"),
        (flags.share_between, {"0.5": 0.5}, ("0", "1", "nan"), "a number between 0 and 1"),
        (flags.from_zero, {"0": 0, "1e3": 1000}, ("-1", "inf", "nan"), "a number from 0 up"),
        (flags.above_zero, {"0.1": 0.1}, ("0", "inf", "nan"), "a number above 0"),
    ],
)
def test_numbers_in_and_out_of_range(kind, good, bad, wanted):
    for text, value in good.items():
        assert kind(text) == value
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(text)
        assert str(caught.value) == f"{text} is not {wanted}"


@pytest.mark.parametrize("path", sorted(SCRIPTS), ids=lambda path: path.name)
def test_no_script_takes_a_number_of_any_size(path):
    """`type=int` takes -3 images as well; a list of `choices` says itself what there is."""
    bare = [
        ast.unparse(call)
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and {"int", "float"} & {ast.unparse(word.value) for word in call.keywords if word.arg == "type"}
        and not any(word.arg == "choices" for word in call.keywords)
    ]
    assert bare == [line for line in bare if "--min-confidence" in line]  # detectors have scores of any sign
