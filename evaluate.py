"""Measures a features file: rank-k, mAP and mINP, with a picture and a JSON file."""

import json
from pathlib import Path

import features as features_file
from cli import ArgumentParser, run
from files import atomic_write
from metrics import rank_metrics


def get_args_parser():
    parser = ArgumentParser(prog="evaluate.py", description=__doc__)
    parser.add_argument("features", nargs="*", default=["features.pth"], help="features files written by test.py")
    parser.add_argument("--json", default="", metavar="FILE", help="write the metrics to this JSON file")
    return parser


def main(args):
    for path in args.features:
        data = features_file.load(path)
        metrics = rank_metrics(*(data[key] for key in ("qf", "ql", "qc", "gf", "gl", "gc")))
        print(Path(path), {key: value for key, value in metrics.items() if key != "cmc"})
        if args.json:
            atomic_write(args.json, lambda file, metrics=metrics: file.write(json.dumps(metrics).encode()))


if __name__ == "__main__":
    run(main, get_args_parser())
