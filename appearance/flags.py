"""Argument types for numbers within a range, with an error about the range."""

import argparse
import math


def _number(kind, text: str, fits, wanted: str):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
    return value


def positive(text: str) -> int:
    return _number(int, text, lambda value: value > 0, "a whole number above 0")


def count(text: str) -> int:
    return _number(int, text, lambda value: value >= 0, "a whole number from 0 up")


def share(text: str) -> float:
    return _number(float, text, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def share_above_zero(text: str) -> float:
    return _number(float, text, lambda value: 0 < value <= 1, "a number above 0, up to 1")


def share_between(text: str) -> float:
    return _number(float, text, lambda value: 0 < value < 1, "a number between 0 and 1")


def from_zero(text: str) -> float:
    return _number(float, text, lambda value: value >= 0, "a number from 0 up")


def above_zero(text: str) -> float:
    return _number(float, text, lambda value: value > 0, "a number above 0")
