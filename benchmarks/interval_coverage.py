"""How often do the 95 % intervals of evaluate.py hold the true value?

People are drawn again and again from one population: a random centre each in the space of features, clouds of their
own width around it, 1 to 6 queries and 2 to 19 gallery images. Each draw is evaluated as evaluate.py does. The true
value is the mean of --truth other draws (of the threshold: their median). `covers` is the share of --draws intervals
that hold it; `false_alarms` is how often two networks that are equally good on average were said to differ.

With --shapes no features are made: each person's AP, or chance to be found, is drawn from a beta distribution of a low,
a middle and a high mean, in which people are much alike (concentration 20), differ, or are mostly found or mostly not
(1). `width` is the interval's, beside `t_width`, twice Student's t times the standard error.
"""

import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import numpy as np
import torch
from machine import machine

from appearance.cli import ArgumentParser, run
from appearance.measure import features_file, intervals
from appearance.measure.calibrate import calibrate
from appearance.measure.metrics import difference, rank_queries, summary

FIGURES = {"rank1": "rank1_interval", "mAP": "mAP_interval", "max_dist": "max_dist_interval"}


def get_args_parser():
    parser = ArgumentParser(prog="interval_coverage.py", description=__doc__)
    add = parser.add_argument
    add("--people", type=int, nargs="+", default=[20, 100], help="people in a draw")
    add("--draws", type=int, default=200, help="evaluations whose intervals are looked at")
    add("--truth", type=int, default=1000, help="evaluations that the true value is the mean of")
    add("--size", type=int, default=32, help="numbers of a feature vector")
    add("--noise", type=float, default=1.4, help="width of the clouds, beside centres of width 1")
    add("--shapes", action="store_true", help="draw the AP of people, not features: no --truth, --size, --noise")
    add("--json", metavar="FILE", help="write the figures there, too")
    return parser


def main(args):
    found = {
        "machine": machine("cpu"),
        "settings": {key: vars(args)[key] for key in ("draws", "truth", "size", "noise")},
    }
    measure = shapes if args.shapes else coverage
    found["people"] = {people: measure(people, args) for people in args.people}
    text = json.dumps(found, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


def coverage(people: int, args) -> dict:
    """{figure: {truth, deviation of the draws, covers, width}} and the false alarms of comparisons."""
    generator = torch.Generator().manual_seed(0)
    draws, alarms = [], 0
    for number in range(args.draws + args.truth):
        data = population(people, args.size, args.noise, generator)
        results = rank_queries(data["one"])
        draws.append(summary(results) | calibrate(data["one"], 0.05, seed=number))
        if number < args.draws:
            alarms += difference(results, rank_queries(data["other"]))["mAP_beyond_chance"]
    out = {"false_alarms": alarms / args.draws}
    for figure, interval in FIGURES.items():
        values = torch.tensor([draw[figure] for draw in draws], dtype=torch.float64)
        ends = torch.tensor([draw[interval] for draw in draws[: args.draws]], dtype=torch.float64)
        rest = values[args.draws :]
        truth = (rest.median() if figure == "max_dist" else rest.mean()).item()
        out[figure] = {
            "truth": round(truth, 4),
            "deviation": round(values.std().item(), 4),
            "covers": ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).double().mean().item(),
            "mean_width": round((ends[:, 1] - ends[:, 0]).mean().item(), 4),
        }
    return out


def shapes(people: int, args) -> dict:
    """{figure, mean, concentration: {covers, width, t_width}} of people whose AP is drawn, 1 to 6 queries each."""
    random, out = np.random.default_rng(0), {}
    for figure, mean, concentration in itertools.product(("AP", "rank-1"), (0.05, 0.125, 0.5, 0.9), (1, 4, 20)):
        held, widths, t_widths = [], [], []
        for _ in range(args.draws):
            labels = np.arange(people).repeat(random.integers(1, 7, people))
            values = random.beta(mean * concentration, (1 - mean) * concentration, people)[labels]
            if figure == "rank-1":
                values = (random.random(len(labels)) < values).astype(float)
            low, high = intervals.of_means(torch.from_numpy(labels), torch.from_numpy(values)[:, None])[0].tolist()
            held.append(low <= mean <= high)
            widths.append(high - low)
            moved = np.bincount(labels, values - values.mean()) / len(labels)
            t = intervals.student(people - 1)
            t_widths.append(2 * t * (np.square(moved).sum() * people / (people - 1)) ** 0.5)
        numbers = {"covers": held, "width": widths, "t_width": t_widths}
        out[f"{figure}, mean {mean}, concentration {concentration}"] = {
            key: round(float(np.mean(value)), 3) for key, value in numbers.items()
        }
    return out


def population(people: int, size: int, noise: float, generator) -> dict:
    """Features dicts `one` and `other` of the same new people, from two networks that are equally good."""
    queries, images = (torch.randint(*ends, (people,), generator=generator) for ends in ((1, 7), (2, 20)))
    number = torch.arange(people)
    ql, gl = number.repeat_interleave(queries), number.repeat_interleave(images)
    width = noise * (0.5 + torch.rand(people, 1, generator=generator))

    def network():
        centres = torch.randn(people, size, generator=generator)

        def rows(labels):
            cloud = width[labels] * torch.randn(len(labels), size, generator=generator)
            return torch.nn.functional.normalize(centres[labels] + cloud)

        cameras = {"qc": torch.zeros(len(ql)), "gc": torch.ones(len(gl))}
        return features_file.check({"qf": rows(ql), "ql": ql + 1, "gf": rows(gl), "gl": gl + 1} | cameras)

    return {"one": network(), "other": network()}


if __name__ == "__main__":
    run(main, get_args_parser())
