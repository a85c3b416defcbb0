"""Evaluate features files: rank-k, mAP and mINP, CMC curves, JSON; re-ranking; a tracker's threshold.

Reads features files of test.py (features.pth), or the same arrays as .npz, .mat or a folder of .npy files. Several
files are compared in one table and one picture.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import torch

from appearance.cli import ArgumentParser, InputError, run
from appearance.device import choose_device
from appearance.files import write_text
from appearance.flags import above_zero, count, positive, share
from appearance.identities import JUNK
from appearance.measure import calibrate as calibration
from appearance.measure import features_file, intervals, protocols, reappear
from appearance.measure.calibrate import in_digits
from appearance.measure.metrics import DEFAULT_MEMORY, breakdown, difference, rank_queries, rank_scores, summary
from appearance.measure.rerank import Reranking, re_ranking  # noqa: F401 - called from outside
from appearance.measure.stacked import Stacked
from appearance.networks import thresholds
from appearance.pictures import plots, report

COLUMNS = {"rank-1": "rank1", "rank-5": "rank5", "rank-10": "rank10", "rank-20": "rank20", "mAP": "mAP", "mINP": "mINP"}
HOW = ("measured", "start", "identities", "based_on", "false_match_rate", "kept", "warnings")  # saved with a threshold
INTERVAL = f"{intervals.LEVEL:.0%} interval"


def rank_metrics(qf, ql, qc, gf, gl, gc, memory: int = DEFAULT_MEMORY) -> dict:
    """Rank-k, mAP and mINP of queries against a gallery.

    Args:
        qf, gf: (Nq, D), (Ng, D) unit rows, arrays or tensors, on the CPU or a GPU (runs on the device of gf).
        ql, gl: (Nq,), (Ng,) identities; -1: junk.
        qc, gc: (Nq,), (Ng,) cameras; -1: unknown.
        memory: bytes to use on top of the features.

    Returns:
        a dict as of `metrics.summary`.

    Raises:
        InputError: shapes do not match, rows are not unit vectors, or no query is valid.
    """
    data = features_file.check(dict(qf=qf, ql=ql, qc=qc, gf=gf, gl=gl, gc=gc))
    return summary(rank_queries(data, memory))


def get_args_parser():
    parser = ArgumentParser(prog="evaluate.py", description=__doc__)
    add = parser.add_argument
    add("features", nargs="*", default=["features.pth"], help="features files written by test.py, one per run")
    add(
        "--labels",
        nargs="+",
        metavar="NAME",
        help="names of the files in table and pictures (default: from their paths)",
    )
    add("--json", metavar="FILE", help="write every number to FILE (docs/evaluation.md lists the keys)")
    cmc = "picture of the CMC curves (default: cmc.png for features.pth, else LABEL_cmc.png beside the features file)"
    add("--cmc", metavar="FILE", help=cmc)
    add("--report", metavar="DIR", help="write report.html (numbers and pictures on one page) and its pictures there")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    add("--memory", type=above_zero, default=1.0, metavar="GB", help="gigabytes of memory to use beside the features")

    group = parser.add_argument_group("protocol")
    add = group.add_argument
    names = "market1501: the usual one. mars: average the images of each tracklet first. no-camera: images of the "
    names += (
        "query's camera count as well. multi-query: average the queries of one person and camera. reappear: in one "
    )
    names += "camera, find a person who comes back after --gap frames or more"
    add("--protocol", choices=protocols.PROTOCOLS, default="market1501", help=names)
    gaps = f"{reappear.GAP}, or {reappear.EXACT_GAP} with --exact"
    add("--gap", type=count, metavar="FRAMES", help=f"for --protocol reappear (default: {gaps})")
    add(
        "--exact",
        action="store_true",
        help="with --protocol reappear: compare with the people exactly --gap frames later",
    )
    every = f"with --exact: frames between queries (default: {reappear.EVERY})"
    add("--every", type=positive, metavar="FRAMES", help=every)

    group = parser.add_argument_group("re-ranking (k-reciprocal, Zhong et al. 2017)")
    add = group.add_argument
    add("--rerank", action="store_true", help="also print the metrics after re-ranking")
    add("--k1", type=positive, help="number of nearest neighbours (default: 20)")
    add("--k2", type=positive, help="neighbours for query expansion; 1: no expansion (default: 6)")
    weight = "weight of the original distance (default: 0.3)"
    add("--lambda", type=share, dest="lambda_value", metavar="L", help=weight)

    group = parser.add_argument_group("the tracker's threshold")
    add = group.add_argument
    add("--calibrate", action="store_true", help="find DeepSORT's max_dist for this network; also draws distances.png")
    rates = f"{calibration.TRACKS_RATE} of tracks; {calibration.PAIRS_RATE} of pairs, where names tell no time"
    add(
        "--false-match-rate",
        type=share,
        metavar="R",
        help=f"share of other people that the threshold may accept (default: {rates})",
    )
    add(
        "--window", type=positive, metavar="FRAMES", help="frames for which a tracker remembers a person (default: 100)"
    )
    save = "write the threshold of --calibrate into this checkpoint, from which trackers and exports take it"
    add("--save-threshold", type=Path, metavar="CHECKPOINT", help=save)
    return parser


def main(args):
    if args.labels and len(args.labels) != len(args.features):
        raise InputError(
            f"--labels: {len(args.labels)} names for {len(args.features)} features files; give one name per file"
        )
    labels = args.labels or _names(args.features)
    if len(set(labels)) != len(labels):
        raise InputError("--labels: two files have the same name; give each another name")
    if args.protocol == "reappear" and args.rerank:
        raise InputError("--rerank: not possible with --protocol reappear; leave one of them out")
    if args.save_threshold and not (args.calibrate and len(labels) == 1):
        raise InputError("--save-threshold: needs --calibrate and exactly one features file")
    if args.save_threshold and not args.save_threshold.is_file():
        raise InputError(f"--save-threshold {args.save_threshold}: no such checkpoint; give the one used in test.py")
    _fill_in(args)
    device = choose_device(args.device)
    runs, shown, compared = {}, None, []
    for label, path in zip(labels, args.features, strict=True):
        runs[label], data, results = evaluate(path, args, device)
        if shown is None:
            shown = data, results  # of the first run, for the ranked lists of the report
        elif same_queries(shown[0], data):
            compared.append({"run": label, "against": labels[0]} | difference(results, shown[1]))
        else:
            print(f"{path}: has other queries than {args.features[0]}, so the two cannot be compared directly")
    print_table(report.curves(runs))
    print_differences(compared)
    for label, metrics in runs.items():
        if "exact" in metrics:
            print_exact(label if len(runs) > 1 else "", metrics)
        if "reappear" in metrics:
            print_curve(label if len(runs) > 1 else "", metrics["reappear"])
        if "calibration" in metrics:
            print_threshold(label if len(runs) > 1 else "", metrics["calibration"])
    write_outputs(args, runs, compared, shown)
    without = [
        f"{label}: {metrics['not_calibrated']}" for label, metrics in runs.items() if "not_calibrated" in metrics
    ]
    if without:
        raise InputError("; ".join(without) + "; everything else was written")
    if args.save_threshold:
        save_threshold(args.save_threshold, runs[labels[0]]["calibration"], shown[0]["meta"])


def evaluate(path, args, device):
    """Evaluate one features file with the flags; returns (metrics, features dict, per-query results)."""
    memory = int(args.memory * 2**30)
    data = features_file.load(path)
    protocol, gap, lines = protocols.fitting(args.protocol, data, whole=not args.rerank)
    gap = args.gap if gap is None else gap
    data, told = protocols.apply(protocol, data)
    lines += told
    if protocol != "no-camera" and (bool((data["qc"] < 0).all()) or bool((data["gc"] < 0).all())):
        lines.append("cameras are unknown, so same-camera images count as right answers")
    if data["meta"].get("by_session"):
        lines.append(
            "sessions (clips, days) are used in place of cameras: images of the query's own session do not count"
        )
    data = _placed(data, device, memory)
    try:
        if args.exact:
            data, results, left_out = reappear.at_exactly(data, gap, args.every)
            data, lines = data | {"exactly": gap}, lines + left_out
        elif protocol == "reappear":
            results, curve, left_out = reappear.rank(data, gap, memory)
            data, lines = data | {"gap": gap}, lines + left_out
        else:
            results = rank_queries(data, memory, device)
        metrics = summary(results) | {"protocol": protocol, "features": str(path)}
        if args.rerank:
            metrics["rerank"] = summary(_reranked(data, args, memory))
        if args.json or args.report:
            metrics["breakdown"] = breakdown(data, results, memory)
        if args.exact:
            metrics["exact"] = {"gap": gap, "every": args.every, "rank1": metrics["rank1"], "MRR": metrics["mAP"]}
        elif args.calibrate or protocol == "reappear":
            found = _calibrated(protocols.with_cameras(data), args, gap, memory, metrics)
            if protocol == "reappear":
                metrics["reappear"] = reappear.summary(gap, curve, found)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    met = data["meta"].get("identities_trained_on")
    if isinstance(met, int) and met > 0:
        lines.append(f"the network was trained on {met} of the test identities; on new people the metrics are lower")
    left = metrics["queries"] - metrics["valid_queries"]
    if left:
        lines.append(f"{left} of {metrics['queries']} queries have no correct gallery image and are not counted")
    for line in lines:
        print(f"{path}: {line}")
    return metrics, data, results


def _calibrated(data: dict, args, gap: int, memory: int, metrics: dict) -> dict:
    """The result of `calibrate`. With --calibrate it, or the reason for its failure, is added to `metrics`."""
    try:
        found = calibration.calibrate(data, args.false_match_rate, args.window, gap=gap, memory=memory)
    except InputError as error:
        if args.calibrate:
            metrics["not_calibrated"] = str(error)
        return {"groups": {}}
    if args.calibrate:
        metrics["calibration"] = found
    return found


def _fill_in(args):
    """Set the defaults of flags that depend on another flag. Raises InputError if that other flag is missing."""
    reappears = args.protocol == "reappear"
    default_gap = reappear.EXACT_GAP if args.exact else reappear.GAP
    if args.exact and (not reappears or args.calibrate):
        raise InputError("--exact: needs --protocol reappear, and is not possible with --calibrate")
    of_others = (
        ("--rerank", args.rerank, {"k1": 20, "k2": 6, "lambda_value": 0.3}),
        ("--protocol reappear", reappears, {"gap": default_gap if reappears else None}),
        ("--exact", args.exact, {"every": reappear.EVERY}),
        ("--calibrate or --protocol reappear", args.calibrate or reappears, {"false_match_rate": None, "window": 100}),
    )
    for other, given, defaults in of_others:
        for key, default in defaults.items():
            if getattr(args, key) is None:
                setattr(args, key, default)
            elif not given:
                flag = key.removesuffix("_value").replace("_", "-")
                raise InputError(f"--{flag}: has no effect without {other}; add {other}, or leave --{flag} out")


def same_queries(one: dict, other: dict) -> bool:
    """Whether two features dicts have the same queries in the same order (by labels, cameras and file names)."""
    names = [[Path(path).name for path in data["q_paths"]] for data in (one, other)]
    alike = names[0] == names[1] or not all(names)
    return alike and torch.equal(one["ql"], other["ql"]) and torch.equal(one["qc"], other["qc"])


def print_table(runs: dict):
    """Print the metrics of runs {label: metrics} in percent, with intervals of rank-1 and mAP below each."""
    rows = [["", *COLUMNS, "queries", "gallery"]]
    for label, metrics in runs.items():
        numbers = [f"{100 * metrics[key]:.2f}" for key in COLUMNS.values()]
        rows.append([label, *numbers, str(metrics["valid_queries"]), str(metrics["gallery"])])
        sure = [metrics.get(f"{key}_interval") for key in COLUMNS.values()]
        people = f"{metrics['identities']:,} people" if metrics["identities"] > 1 else "1 person"
        rows.append([INTERVAL, *(f"{100 * ends[0]:.1f}-{100 * ends[1]:.1f}" if ends else "" for ends in sure)])
        rows[-1].append(f"   ({people})")
    print_columns(rows, least=[0, *[12] * len(COLUMNS), 9, 9])


def print_columns(rows: list[list[str]], least: list[int], indent: str = ""):
    """Print rows of cells as a table, first column left-aligned, others right-aligned, with minimum widths `least`.

    The last cell of a row with fewer cells may be wider than its column.
    """
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(small, *(len(row[i]) + 2 * (i > 0) for row in full)) for i, small in enumerate(least)]
    widths[0] = max(widths[0], *(len(row[0]) for row in rows))
    for first, *cells in rows:
        rest = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False))
        print(indent + first.ljust(widths[0]) + "".join(rest))


def print_differences(compared: list[dict]):
    """Print a line for each run that is compared with the first one."""
    for found in compared:
        parts = []
        for name, key in (("rank-1", "rank1"), ("mAP", "mAP")):
            low, high = (100 * end for end in found[f"{key}_interval"])
            verdict = "beyond chance" if found[f"{key}_beyond_chance"] else "may be chance"
            parts.append(f"{name} {100 * found[key]:+.2f} ({low:+.1f} to {high:+.1f}), {verdict}")
        print(f"{found['run']} compared with {found['against']}, on the same queries: " + "; ".join(parts))


def print_exact(label: str, metrics: dict):
    """Print rank-1 and MRR of the re-association protocol."""
    found = metrics["exact"]
    head = f"{label + ': ' if label else ''}among the people exactly {found['gap']:,} frames later"
    shares = f"rank-1 {found['rank1']:.2%}, MRR {found['MRR']:.2%}"
    print(f"\n{head}: {shares} ({metrics['valid_queries']:,} queries, from every {found['every']}th frame)")


def print_curve(label: str, found: dict):
    """Print rank-1 and mAP against the gap, and the threshold for --gap."""
    curve = found["curve"]
    print(f"\n{label + ': ' if label else ''}same person, same camera, at least this many frames apart")
    rows = [["frames", *(f"{point['gap']:,}" for point in curve)]]
    for name, key in (("rank-1", "rank1"), ("mAP", "mAP")):
        rows.append([name, *(f"{100 * point[key]:.1f}" for point in curve)])
    rows.append(["queries", *(f"{point['queries']:,}" for point in curve)])
    print_columns(rows, least=[8] * len(rows[0]), indent="  ")
    if found["max_dist"] is not None:
        rate = f"accepts {found['false_matches']:.2%} of other people, and {found['kept']:.1%} of the same person"
        print(f"  max_dist {in_digits(found['max_dist'])} {rate} at least {found['gap']:,} frames apart")


def print_threshold(label: str, found: dict):
    """Print the threshold for the tracker, its interval, warnings, and a line per group of pairs."""
    of_tracks, based_on = found["based_on"] == "track", found["groups"][found["based_on"]]
    print(f"\n{label + ': ' if label else ''}max_dist {in_digits(found['max_dist'])}  for DeepSORT: accepts ", end="")
    strangers, same = "pairs of different people", "pairs of the same person"
    if of_tracks:
        strangers, same = "tracks of other people", "tracks of the same person"
    print(f"{based_on['false_matches']:.2%} of the {strangers}, keeps {found['kept']:.1%} of the {same}")
    if found["max_dist_interval"]:
        low, high = found["max_dist_interval"]
        print(f"  {INTERVAL} over people: {in_digits(low)} to {in_digits(high)}")
    for line in calibration.notes(found):
        print(f"  {line}")
    for group in found["groups"].values():
        pairs = f"{group['same_pairs']:,} same, {group['different_pairs']:,} different"
        rate = f"equal error rate {group['equal_error_rate']:.1%}"
        kept = f"threshold {in_digits(group['threshold'])}, keeps {group['kept']:.1%}"
        print(f"  {group['title']}: {kept}, {rate} ({pairs})")


def save_threshold(path: Path, found: dict, meta: dict):
    """Write the threshold, and how it was measured, into a checkpoint."""
    how = {key: found[key] for key in HOW} | {"interval": found["max_dist_interval"]}
    how["data"] = Path(str(meta.get("data_dir", ""))).name
    how |= {key: meta.get(key) for key in ("flip", "precision")}
    thresholds.save(path, found["max_dist"], how, meta)
    print(f"max_dist {in_digits(found['max_dist'])} -> {path}: trackers and exports read it from this file")


def write_outputs(args, runs: dict, compared: list[dict], shown):
    """Write pictures, JSON and report, and print their paths."""
    beside, names = Path(args.features[0]).parent, _pictures_of(args.features, list(runs))
    cmc = Path(args.cmc) if args.cmc else beside / f"{names}cmc.png"
    plots.save(plots.cmc(report.curves(runs)), cmc)
    written = [cmc]
    came_back = {label: metrics for label, metrics in runs.items() if "reappear" in metrics}
    if came_back:
        written.append(cmc.with_name(f"{names}reappear.png"))
        plots.save(plots.reappear(came_back), written[-1])
    for i, metrics in enumerate(runs.values()):
        if "calibration" in metrics:
            written.append(cmc.with_name(f"{names}distances{i + 1 if len(runs) > 1 else ''}.png"))
            plots.save(plots.distances(metrics["calibration"]), written[-1])
    command = ["python", "evaluate.py", *sys.argv[1:]]
    if args.json:
        content = next(iter(runs.values())) if len(runs) == 1 else {"runs": runs, "differences": compared}
        content = content | {"command": shlex.join(command), "torch": torch.__version__}
        text = json.dumps(content, indent=2) + "\n"
        write_text(args.json, text)
        written.append(Path(args.json))
    if args.report:
        page, missing = report.write(args.report, runs, compared, *shown, command)
        written.append(page)
        if missing:
            print(f"{args.report}: {missing} images of the ranked lists are blank, because they could not be read")
    print("Wrote " + ", ".join(map(str, written)))


def _reranked(data: dict, args, memory: int) -> dict:
    device, kept = data["gf"].device, (data["gl"] != JUNK).nonzero()[:, 0]
    gallery = Stacked(data["gf"], chosen=kept.to(device))
    reranking = Reranking(data["qf"], gallery, args.k1, args.k2, args.lambda_value, memory)

    def score(rows, out):
        reranking.distances(rows, out)
        out.neg_()

    labels = (data["ql"], data["qc"], data["gl"][kept], data["gc"][kept])
    return rank_scores(score, *(column.to(device) for column in labels), reranking.memory_left // 2)


def _placed(data: dict, device, memory: int) -> dict:
    """Copy features to the GPU if they fit; otherwise `rank_queries` streams them."""
    if device.type != "cuda":
        return data
    size = 4 * (data["qf"].numel() + data["gf"].numel())
    fits = size + 2 * memory < torch.cuda.mem_get_info(device)[0]
    return data | {key: data[key].to(device) for key in ("qf", "gf")} if fits else data


def _names(paths: list[str]) -> list[str]:
    """Short unique names of files: the stem, preceded by as many folders as necessary."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _pictures_of(paths: list[str], labels: list[str]) -> str:
    """The prefix of the pictures' names, so that pictures of other features files are not overwritten."""
    if [Path(path).stem for path in paths] == ["features"]:
        return ""
    # only characters allowed in file names, whose length is limited to 255 bytes
    names = "-".join(re.sub(r"[^\w.,+=-]+", "_", label) for label in labels)
    return names.encode()[:100].decode(errors="ignore").lstrip(".") + "_"


if __name__ == "__main__":
    run(main, get_args_parser())
