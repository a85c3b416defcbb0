"""One self-contained page about an evaluation: numbers, pictures and the command that made it."""

import base64
import html
import platform
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from appearance.cli import InputError
from appearance.data.images import load_rgb
from appearance.files import atomic_write, write_text
from appearance.measure.calibrate import in_digits
from appearance.measure.features_file import name_of
from appearance.measure.metrics import ranked_list
from appearance.measure.protocols import with_cameras
from appearance.pictures import plots

LISTS = 3  # queries of each kind: best, worst, random
MAP_IDENTITIES, MAP_IMAGES = 12, 600  # what fits on a map and can be told apart
MAP_LEAST = 4  # images of each
THUMBNAIL = (96, 192)
FAMILIES = 12  # identities named in the table of the hardest

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1d2026; --soft: #5b6270; --line: #dcdfe5; --card: #f5f6f8;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181d; --text: #d8dbe2; --soft: #9aa1ae; --line: #333842;
  --card: #1f2229; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 62rem; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .2rem 0 .4rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.soft { color: var(--soft); font-size: .92rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: .6rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.2rem, 1fr)); gap: .6rem; }
.card { background: var(--card); border-radius: 8px; padding: .55rem .8rem; }
.card b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--soft); }
img { display: block; width: 100%; height: auto; border-radius: 8px; }
picture { display: block; max-width: 42rem; min-width: 21rem; margin: 0 auto; }
.scroll picture { max-width: none; min-width: 46rem; }
pre { background: var(--card); border-radius: 8px; padding: .7rem .9rem; overflow-x: auto; }
"""


def write(folder, runs: dict, compared: list[dict], data: dict, results: dict, command: list[str]):
    """Write report.html and its pictures, also as files of their own, into a folder.

    Args:
        folder: made if needed.
        runs: {label: metrics}, as in the metrics file, with `breakdown` and `calibration` where there are any.
        compared: what `metrics.difference` says of each run after the first, with its label as `run`.
        data, results: features dict and per-query results (`metrics.rank_scores`) of the first run, whose lists and map
            are drawn.
        command: the command line that is shown.
    Returns the path of the page, and how many images of the ranked lists could not be read.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--report {folder}: cannot be written ({error.strerror}); choose another folder") from None
    label, first = next(iter(runs.items()))
    pictures = {}

    def picture(name, text, draw, scroll=False):
        """A figure as a file and as HTML with a light and a dark form."""
        figure = draw()
        kind = Path(name).suffix[1:]
        light = plots.render(figure, kind)
        atomic_write(folder / name, lambda file: file.write(light))
        dark = plots.render(figure, kind, dark=True)
        pictures[name] = (
            f'<div class="wide{" scroll" if scroll else ""}"><picture>'
            f'<source media="(prefers-color-scheme: dark)" srcset="{_uri(dark, kind)}">'
            f'<img alt="{html.escape(text)}" src="{_uri(light, kind)}"></picture></div>'
        )
        return pictures[name]

    parts = [_summary(label, first, data), _table(runs), _differences(compared)]
    parts.append(picture("cmc.png", "Share of queries found within the first k", lambda: plots.cmc(curves(runs))))
    if "reappear" in first:
        text = "Rank-1 and mAP of people who come back, against the frames they were away"
        came_back = {label: metrics for label, metrics in runs.items() if "reappear" in metrics}
        parts.append(picture("reappear.png", text, lambda: plots.reappear(came_back)))
    if "calibration" in first:
        parts.append(_calibration(first["calibration"]))
        draw = plots.distances(first["calibration"])
        parts.append(picture("distances.png", "Histograms of cosine distances", lambda: draw))
    lists, missing = _lists(data, results)
    parts.append("<h2>Ranked lists</h2>" + _lists_text(label, len(runs), data, missing))
    for kind, rows in lists.items():
        text = f"{kind} queries with their first ten gallery images"
        parts.append(picture(f"{kind}.jpg", text, lambda rows=rows: plots.ranked_lists(rows), scroll=True))
    drawn = _map(data, results)
    if drawn is not None:
        parts.append(
            "<h2>Map of the features</h2><p>Each point is an image, each colour a person: one tight cloud per colour "
            "is what a tracker needs. Clouds that split by marker are people whose vector depends on the camera. The "
            "axes are the two principal components: clouds that overlap here may lie apart in the other directions. "
            f"The people are {MAP_IDENTITIES} at most, from the one of the highest AP to the one of the lowest, evenly "
            "spread in between.</p>"
        )
        parts.append(picture("map.png", "Principal components of the features, coloured by identity", lambda: drawn))
    parts.append(_breakdown(first.get("breakdown", {})))
    parts.append(_provenance(command, data))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {html.escape(label)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.html", missing


def curves(runs: dict) -> dict:
    """{label: metrics} with re-ranked results as runs of their own, for tables and CMC pictures."""
    out = {}
    for label, metrics in runs.items():
        out[label] = metrics
        if "rerank" in metrics:
            out[f"{label}, re-ranked"] = metrics["rerank"]
    return out


def _summary(label, metrics, data) -> str:
    cards = "".join(
        f'<div class="card">{name}<b>{100 * metrics[key]:.1f} %</b>{_interval(metrics, key)}</div>'
        for key, name in (
            ("rank1", "rank-1"),
            ("rank5", "rank-5"),
            ("rank10", "rank-10"),
            ("mAP", "mAP"),
            ("mINP", "mINP"),
        )
    )
    return (
        f"<h1>Evaluation of {html.escape(label)}</h1>"
        f'<p class="soft">{metrics["valid_queries"]:,} of {metrics["queries"]:,} queries have a correct image among '
        f"{metrics['gallery']:,} gallery images. Protocol: {html.escape(metrics.get('protocol', 'market1501'))}.</p>"
        f'<div class="cards">{cards}</div>'
        "<p>Rank-k is the share of queries with a correct image among the first k; mAP says how early all of the "
        "correct images come; mINP how early the last, hardest one comes. Below rank-1 and mAP stand their 95 % "
        f"intervals: what other people would give, of whom these {metrics['identities']:,} are a sample.</p>"
    )


def _interval(metrics, key) -> str:
    if f"{key}_interval" not in metrics:
        return ""
    low, high = metrics[f"{key}_interval"]
    return f'<span class="soft">{100 * low:.1f} to {100 * high:.1f}</span>'


def _differences(compared) -> str:
    if not compared:
        return ""
    rows = []
    for found in compared:
        cells = [html.escape(found["run"])]
        for key in ("rank1", "mAP"):
            low, high = (100 * end for end in found[f"{key}_interval"])
            verdict = "beyond chance" if found[f"{key}_beyond_chance"] else "may be chance"
            cells += [f"{100 * found[key]:+.2f}", f"{low:+.1f} to {high:+.1f}", verdict]
        rows.append(cells)
    against = html.escape(compared[0]["against"])
    return (
        f"<h2>Against {against}, query by query</h2><p>The difference in percentage points, its 95 % interval, and "
        "whether that leaves out zero.</p>"
        + _html_table(["run", "rank-1", "interval", "", "mAP", "interval", ""], rows)
    )


def _table(runs) -> str:
    columns = (("rank1", "rank-1"), ("rank5", "rank-5"), ("rank10", "rank-10"), ("rank20", "rank-20"))
    columns += (("mAP", "mAP"), ("mINP", "mINP"), ("mAP_trapezoid", "mAP, trapezoid"))
    rows = [
        [html.escape(label)] + [f"{100 * metrics[key]:.2f}" for key, _ in columns]
        for label, metrics in curves(runs).items()
    ]
    return "<h2>Numbers, in percent</h2>" + _html_table(["run", *(name for _, name in columns)], rows)


def _calibration(calibration) -> str:
    based_on = calibration["groups"][calibration["based_on"]]
    rows = [
        [
            html.escape(group["title"]),
            f"{group['same_pairs']:,}",
            f"{group['different_pairs']:,}",
            in_digits(group["threshold"]),
            f"{group['kept']:.1%}",
            f"{group['equal_error_rate']:.1%}",
        ]
        for group in calibration["groups"].values()
    ]
    sure = ""
    if calibration["max_dist_interval"]:
        low, high = calibration["max_dist_interval"]
        sure = f" In 95 % of cases other such people put it between {in_digits(low)} and {in_digits(high)}."
    warnings = "".join(f"<p><b>Warning:</b> {html.escape(text)}.</p>" for text in calibration["warnings"])
    head = ["what is compared", "same", "different", "max_dist", "matches kept", "equal error rate"]
    return (
        "<h2>Threshold for the tracker</h2>"
        f"<p>With <b>max_dist = {in_digits(calibration['max_dist'])}</b>, {based_on['false_matches']:.2%} of the "
        f"comparisons with strangers are accepted and {calibration['kept']:.1%} of those with the same person are kept "
        f"({html.escape(based_on['title'])}).{sure}</p>{warnings}" + _html_table(head, rows)
    )


def _lists(data, results):
    """{kind: rows for plots.ranked_lists} and the number of images that could not be read.

    No query is both among the best and the worst; where these are all there are, there is no random list.
    """
    valid = (results["correct"] > 0).nonzero()[:, 0]
    ap = results["ap"][valid]
    by_ap = valid[ap.argsort(stable=True)]
    shuffled = valid[torch.randperm(len(valid), generator=torch.Generator().manual_seed(0))]
    found, missing, shown = {}, 0, set()
    for kind, order in (("best", by_ap.flip(0)), ("worst", by_ap), ("random", shuffled)):
        left = order.tolist() if kind == "random" else [query for query in order.tolist() if query not in shown]
        most = min(LISTS, (len(valid) + 1) // 2) if kind == "best" else LISTS
        rows = []
        seen = set()
        for query in left:
            if int(data["ql"][query]) in seen or len(rows) == most:  # different people say more than one thrice
                continue
            seen.add(int(data["ql"][query]))
            shown.add(query)
            name = plots.plain(name_of(data, data["ql"][query]), str(int(data["ql"][query])))
            row = _list_row(data, query, f"{kind} · identity {name} · AP {100 * results['ap'][query]:.0f} %")
            missing += sum(item["image"] is None for item in [row["query"], *row["results"]])
            rows.append(row)
        if rows:
            found[kind] = rows
        if len(shown) == len(valid):
            break
    return found, missing


def _list_row(data, query: int, title: str) -> dict:
    results = [
        {
            "image": _open(data, "g", hit["row"]),
            "caption": f"{_camera(data, 'g', hit['row'])}{in_digits(hit['distance'], 3)}",
            "correct": hit["correct"],
        }
        for hit in ranked_list(data, query)
    ]
    caption = f"query\n{_camera(data, 'q', query)}".strip().rstrip("·").strip()
    return {"title": title, "query": {"image": _open(data, "q", query), "caption": caption}, "results": results}


def _camera(data, side: str, row: int) -> str:
    camera = with_cameras(data)[side + "c"][row]
    return f"cam {camera}\n" if camera >= 0 else ""


def _open(data, side: str, row: int):
    paths = data[side + "_paths"]
    if not paths:
        return None
    root = data["meta"].get("data_dir")
    path = Path(root if isinstance(root, str) else "", paths[row])
    if path.suffix.lower() not in IMG_EXTENSIONS:  # the features file may be a stranger's, and name anything
        return None
    try:
        image = load_rgb(path)
    except InputError:
        return None
    image.thumbnail(THUMBNAIL)
    return image


def _lists_text(label, runs: int, data, missing: int) -> str:
    text = "<p>The query on the left, then its nearest gallery images with camera and cosine distance: "
    text += "green and ✓ the same person, red and ✗ another one."
    if runs > 1:
        text += f" Of the first run, {html.escape(label)}."
    if not data["q_paths"]:
        text += " The features file does not name its images, so they are not shown."
    elif missing:
        text += (
            f" {missing} images could not be read: the paths in the features file are those of the machine it is from."
        )
    return text + "</p>"


def _map(data, results):
    """The map's figure of people from the easiest to the hardest, or None when there are too few images."""
    labels = torch.cat([data["ql"].cpu(), data["gl"].cpu()])
    cameras = torch.cat([with_cameras(data)[key].cpu() for key in ("qc", "gc")])
    people = _easy_to_hard(labels, results)
    rows = torch.isin(labels, torch.tensor(list(people), dtype=labels.dtype)).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:MAP_IMAGES].sort().values]
    if len(rows) < 3:
        return None
    queries = len(data["ql"])
    in_query = rows < queries
    chosen = torch.cat([data["qf"][rows[in_query]].cpu(), data["gf"][rows[~in_query] - queries].cpu()])
    names = {label: plots.plain(name_of(data, label), str(label), most=32) for label in people}
    names = {label: f"{name}   AP {100 * people[label]:.0f} %" for label, name in names.items()}
    points, shares = principal_components(chosen.numpy())
    return plots.feature_map(points, shares, labels[rows].numpy(), cameras[rows].numpy(), names)


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) rows on the two directions in which they vary most (PCA): (N, 2), and each direction's share of the
    variance (2,)."""
    rows = np.pad(features - features.mean(0, dtype=np.float64), ((0, 0), (0, 1)))  # two directions even of one number
    directions, lengths, _ = np.linalg.svd(rows, full_matrices=False)
    variance = np.square(lengths)
    return (directions * lengths)[:, :2], variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def _easy_to_hard(labels: torch.Tensor, results: dict) -> dict[int, float]:
    """{identity: mean AP of its queries} of at most MAP_IDENTITIES, evenly spread over all from the highest AP on.

    Of each there are MAP_LEAST of the images `labels` (N,), if anybody has so many: fewer make no cloud.
    """
    valid = results["correct"] > 0
    people, place = results["identity"][valid].unique(return_inverse=True)
    ap = torch.zeros(len(people), dtype=torch.float64).index_add_(0, place, results["ap"][valid])
    ap /= torch.bincount(place, minlength=len(people))
    images = torch.bincount(torch.searchsorted(people, labels[torch.isin(labels, people)]), minlength=len(people))
    enough = (images >= min(MAP_LEAST, int(images.max()))).nonzero()[:, 0]
    order = enough[ap[enough].argsort(descending=True, stable=True)]
    chosen = order[torch.linspace(0, len(order) - 1, min(MAP_IDENTITIES, len(order))).round().long()]
    return dict(zip(people[chosen].tolist(), ap[chosen].tolist(), strict=True))


def _breakdown(breakdown) -> str:
    out = ""
    pairs = breakdown.get("camera_pairs", [])
    if pairs:
        query_cameras = sorted({pair["query_camera"] for pair in pairs})
        cameras = sorted({pair["gallery_camera"] for pair in pairs})
        cell = {(pair["query_camera"], pair["gallery_camera"]): f"{100 * pair['mAP']:.1f}" for pair in pairs}
        rows = [[str(q), *(cell.get((q, g), "–") for g in cameras)] for q in query_cameras]
        out += (
            "<h2>From camera to camera</h2><p>mAP in percent when a query of one camera searches the images of another."
        )
        out += "</p>" + _html_table(["query \\ gallery", *map(str, cameras)], rows)
    identities = sorted(breakdown.get("identities", []), key=lambda row: row["mAP"])
    if identities:
        rows = [
            [html.escape(row["name"]), str(row["queries"]), f"{100 * row['rank1']:.0f}", f"{100 * row['mAP']:.1f}"]
            for row in identities[:FAMILIES]
        ]
        middle = 100 * float(np.median([row["mAP"] for row in identities]))
        out += "<h2>Hardest identities</h2>"
        out += f"<p>The median of {len(identities):,} identities has a mAP of {middle:.1f} %.</p>"
        out += _html_table(["identity", "queries", "rank-1, %", "mAP, %"], rows)
    return out


def _provenance(command, data) -> str:
    notes = {key: value for key, value in data["meta"].items() if isinstance(value, (str, int, float))}
    rows = [[html.escape(str(key)), html.escape(str(value))] for key, value in notes.items()]
    rows += [
        ["torch", torch.__version__],
        ["Python", platform.python_version()],
        ["made", time.strftime("%Y-%m-%d %H:%M")],
    ]
    return (
        f"<h2>How it was made</h2><pre>{html.escape(shlex.join(command))}</pre>"
        + _html_table(["", ""], rows)
        + f'<p class="soft">{html.escape(sys.platform)}, {html.escape(platform.machine())}</p>'
    )


def _html_table(head, rows) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _uri(content: bytes, suffix: str) -> str:
    return f"data:image/{suffix.replace('jpg', 'jpeg')};base64," + base64.b64encode(content).decode()
