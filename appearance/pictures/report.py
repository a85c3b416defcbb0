"""Write a self-contained HTML report of an evaluation: numbers, plots, ranked lists and the command."""

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

LISTS = 3  # queries per list (best, worst, random)
MAP_IDENTITIES, MAP_IMAGES = 12, 600  # most identities and images on the feature map
MAP_LEAST = 4  # least number of images of an identity on the map
THUMBNAIL = (96, 192)  # largest width and height in pixels
FAMILIES = 12  # rows in the table of the hardest identities

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
    """Write report.html into a folder; its plots are inside the page and beside it as files.

    Args:
        folder: created if missing.
        runs: label -> metrics, as in the metrics file, with optional `breakdown` and `calibration`.
        compared: results of `metrics.difference` for each run after the first, with its label as `run`.
        data, results: features dict and per-query results (`metrics.rank_scores`) of the first run, for ranked lists
            and map.
        command: the command line to show, as words.

    Returns:
        The path of the page, and the number of images in ranked lists that could not be read.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--report {folder}: cannot be written ({error.strerror}); choose another folder") from None
    label, first = next(iter(runs.items()))
    pictures = {}

    def picture(name, text, draw, scroll=False):
        """Write a figure as a file; return HTML with a light and a dark version."""
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
    parts.append(picture("cmc.png", "Queries with a right answer in the top k", lambda: plots.cmc(curves(runs))))
    if "reappear" in first:
        text = "Rank-1 and mAP of returning people over the frames they were away"
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
            "<h2>Feature map</h2><p>Each point is an image, each colour a person. A good network gives one tight "
            "cluster per colour. If a cluster splits by marker, this person's vectors depend on the camera. The axes "
            "are the first two principal components; clusters that overlap here may be separate in other dimensions. "
            f"Shown: at most {MAP_IDENTITIES} people, evenly spaced from the highest to the lowest AP.</p>"
        )
        parts.append(picture("map.png", "Two principal components of the features, coloured by person", lambda: drawn))
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
    """Label -> metrics, with re-ranked results as separate entries, for tables and CMC plots."""
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
        f'<p class="soft">{metrics["valid_queries"]:,} of {metrics["queries"]:,} queries have a right answer among '
        f"{metrics['gallery']:,} gallery images. Protocol: {html.escape(metrics.get('protocol', 'market1501'))}.</p>"
        f'<div class="cards">{cards}</div>'
        "<p>Rank-k: share of queries with a right answer among the first k results. mAP: mean average precision, high "
        "if all right answers are ranked early. mINP: high if even the last right answer is ranked early. Below rank-1 "
        f"and mAP: their 95 % confidence intervals, for other people like these {metrics['identities']:,}.</p>"
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
        f"<h2>Difference to {against}</h2><p>In percentage points, paired by query, with 95 % confidence interval. "
        "Beyond chance: the interval does not include zero.</p>"
        + _html_table(["run", "rank-1", "interval", "", "mAP", "interval", ""], rows)
    )


def _table(runs) -> str:
    columns = (("rank1", "rank-1"), ("rank5", "rank-5"), ("rank10", "rank-10"), ("rank20", "rank-20"))
    columns += (("mAP", "mAP"), ("mINP", "mINP"), ("mAP_trapezoid", "mAP, trapezoid"))
    rows = [
        [html.escape(label)] + [f"{100 * metrics[key]:.2f}" for key, _ in columns]
        for label, metrics in curves(runs).items()
    ]
    return "<h2>Metrics in percent</h2>" + _html_table(["run", *(name for _, name in columns)], rows)


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
        sure = f" 95 % confidence interval, for other people: {in_digits(low)} to {in_digits(high)}."
    warnings = "".join(f"<p><b>Warning:</b> {html.escape(text)}.</p>" for text in calibration["warnings"])
    head = ["pairs", "same person", "different people", "max_dist", "matches kept", "equal error rate"]
    return (
        "<h2>Tracker threshold</h2>"
        f"<p><b>max_dist = {in_digits(calibration['max_dist'])}</b> accepts {based_on['false_matches']:.2%} of the "
        f"pairs of different people and keeps {calibration['kept']:.1%} of the pairs of the same person "
        f"({html.escape(based_on['title'])}).{sure}</p>{warnings}" + _html_table(head, rows)
    )


def _lists(data, results):
    """({kind: rows for plots.ranked_lists}, number of images that could not be read).

    The best and the worst list share no query. With few queries there is no random list.
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
            if int(data["ql"][query]) in seen or len(rows) == most:  # one query per person
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
    if path.suffix.lower() not in IMG_EXTENSIONS:  # an untrusted features file may name any file
        return None
    try:
        image = load_rgb(path)
    except InputError:
        return None
    image.thumbnail(THUMBNAIL)
    return image


def _lists_text(label, runs: int, data, missing: int) -> str:
    text = "<p>Left: the query. Right: its nearest gallery images, with camera and cosine distance. "
    text += "Green ✓: same person; red ✗: another person."
    if runs > 1:
        text += f" From the first run, {html.escape(label)}."
    if not data["q_paths"]:
        text += " Images are not shown, because the features file has no image paths."
    elif missing:
        text += (
            f" {missing} images could not be read at the paths in the features file, which may be from another machine."
        )
    return text + "</p>"


def _map(data, results):
    """The feature map, with people from the easiest to the hardest; None if there are fewer than 3 images."""
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
    """PCA to two components: (N, D) features -> (N, 2), and (2,) fraction of the variance of each component."""
    rows = np.pad(features - features.mean(0, dtype=np.float64), ((0, 0), (0, 1)))  # padded, so that D = 1 works
    directions, lengths, _ = np.linalg.svd(rows, full_matrices=False)
    variance = np.square(lengths)
    return (directions * lengths)[:, :2], variance[:2] / max(variance.sum(), np.finfo(float).tiny)


def _easy_to_hard(labels: torch.Tensor, results: dict) -> dict[int, float]:
    """Identity -> mean AP of its queries, for at most MAP_IDENTITIES identities, evenly spaced from the highest AP.

    Only identities with MAP_LEAST images among `labels` (N,) are used, if there are any.
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
            "<h2>Camera pairs</h2><p>mAP in percent for queries of one camera (rows) among images of another (columns)."
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
        out += f"<p>For comparison: the median mAP of {len(identities):,} identities is {middle:.1f} %.</p>"
        out += _html_table(["identity", "queries", "rank-1, %", "mAP, %"], rows)
    return out


def _provenance(command, data) -> str:
    notes = {key: value for key, value in data["meta"].items() if isinstance(value, (str, int, float))}
    rows = [[html.escape(str(key)), html.escape(str(value))] for key, value in notes.items()]
    rows += [
        ["torch", torch.__version__],
        ["Python", platform.python_version()],
        ["created", time.strftime("%Y-%m-%d %H:%M")],
    ]
    return (
        f"<h2>Command and settings</h2><pre>{html.escape(shlex.join(command))}</pre>"
        + _html_table(["", ""], rows)
        + f'<p class="soft">{html.escape(sys.platform)}, {html.escape(platform.machine())}</p>'
    )


def _html_table(head, rows) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _uri(content: bytes, suffix: str) -> str:
    return f"data:image/{suffix.replace('jpg', 'jpeg')};base64," + base64.b64encode(content).decode()
