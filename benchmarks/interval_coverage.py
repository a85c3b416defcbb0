"""How often do the 95 % intervals of evaluate.py hold the true value?

People are drawn again and again from one population: a random centre each in the space of features, clouds of their
own width around it, 1 to 6 queries and 2 to 19 gallery images. Each draw is evaluated as evaluate.py does. The true
value is the mean of --truth other draws (of the threshold: their median). `covers` is the share of --draws intervals
that hold it; `false_alarms` is how often two networks that are equally good on average were said to differ.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
from machine import machine

from appearance.cli import ArgumentParser, run
from appearance.measure import features_file
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
    add("--json", metavar="FILE", help="write the figures there, too")
    return parser


def main(args):
    found = {
        "machine": machine("cpu"),
        "settings": {key: vars(args)[key] for key in ("draws", "truth", "size", "noise")},
    }
    found["people"] = {people: coverage(people, args) for people in args.people}
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
        draws.append(summary(results, seed=number) | calibrate(data["one"], 0.05, seed=number))
        if number < args.draws:
            alarms += difference(results, rank_queries(data["other"]), seed=number)["mAP_beyond_chance"]
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
