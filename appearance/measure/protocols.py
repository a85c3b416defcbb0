"""Test protocols: which images are compared. Functions from one features dict to another."""

import re

import torch

from appearance.cli import InputError
from appearance.identities import are_people
from appearance.measure import reappear
from appearance.measure.metrics import rank_queries, summary

PROTOCOLS = ("market1501", "mars", "no-camera", "multi-query", "reappear")
MARS_NAME = re.compile(r"(?P<tracklet>(?:-1|00-1|\d{4})C\d+T\d{4})F\d{3,}")


def apply(name: str, data: dict) -> tuple[dict, list[str]]:
    """Prepare a features dict for protocol `name`.

    market1501   unchanged
    mars         images of one tracklet (by their MARS names) are averaged into one row
    no-camera    cameras become unknown, so same-camera images count
    reappear     unchanged; to be ranked by `reappear.rank`
    multi-query  the queries of one identity and camera are averaged (Market-1501's multiple-query setting)

    Returns:
        the new features dict, and lines to print about the changes.

    Raises:
        InputError: unknown protocol.
    """
    if name == "no-camera":
        forgotten = {key: torch.full_like(data[key], -1) for key in ("qc", "gc")}
        return data | forgotten | {"cameras": {key: data[key] for key in forgotten}}, []
    if name == "multi-query":
        groups = torch.stack([data["ql"], data["qc"]], 1).unique(dim=0, return_inverse=True)[1]
        before, data = len(data["ql"]), _averaged(data, "q", groups)
        if len(data["ql"]) == before:
            return data, ["multi-query: no two queries share identity and camera, so nothing was averaged"]
        return data, [f"{before} queries averaged to {len(data['ql'])}, one per identity and camera"]
    if name == "mars":
        lines = []
        for side, title in (("q", "query"), ("g", "gallery")):
            groups = _tracklets(data[side + "_paths"])
            if groups is not None and int(groups.max()) + 1 < len(groups):
                data = _averaged(data, side, groups)
                lines.append(f"{len(groups)} {title} images averaged to {len(data[side + 'l'])} tracklets")
        return data, lines
    if name not in PROTOCOLS:
        raise InputError(f"--protocol {name}: unknown; choose one of {', '.join(PROTOCOLS)}")
    return data, []


def with_cameras(data: dict) -> dict:
    """The features dict with its cameras, which `no-camera` hides; calibration and captions still need them."""
    return data | data.get("cameras", {})


def fitting(name: str, data: dict, whole: bool = True) -> tuple[str, int | None, list[str]]:
    """The protocol to use: `name`, unless that is market1501 and each person is in one camera only.

    Then no query has a correct answer across cameras, and "reappear" or "no-camera" is used instead.

    Args:
        whole: "reappear" is allowed too; False: only protocols that rank the whole gallery.

    Returns:
        protocol, gap in frames of "reappear" (None: not replaced by it), lines to print about the change.
    """
    seen = torch.stack([torch.cat([data[f"q{key}"].cpu(), data[f"g{key}"].cpu()]) for key in "lc"])  # (2, Nq + Ng)
    views = seen[:, are_people(seen[0], data["ql"])].unique(dim=1)  # a person and a camera each
    cameras = views[1].unique().tolist()
    somebody_in_two = len(views[0].unique()) < views.shape[1]
    if name != "market1501" or somebody_in_two or -1 in cameras:
        return name, None, []
    gap = reappear.fitting_gap(data) if whole else None
    told = f"all images are from camera {cameras[0]}" if len(cameras) == 1 else "each person is in one camera only"
    told += ", so recognition across cameras cannot be measured; "
    if gap is not None:
        told += f"right answers are same-camera images at least {gap} frames from the query (--protocol reappear)"
        return "reappear", gap, [told]
    told += (
        "right answers are same-camera images (--protocol no-camera); near-identical frames make the figures too high"
    )
    return "no-camera", None, [told]


def metrics(data: dict) -> dict:
    """`metrics.summary` of a features dict, with the protocol that `fitting` chooses.

    Raises:
        InputError: no query is valid.
    """
    name, gap, _ = fitting("market1501", data)
    return summary(reappear.rank(data, gap)[0] if gap is not None else rank_queries(apply(name, data)[0]))


def _tracklets(paths: list[str]):
    """(N,) tracklet number of each path; None if there are no paths or some are not MARS names."""
    found = [MARS_NAME.search(path.replace("\\", "/").rsplit("/", 1)[-1]) for path in paths]
    if not found or not all(found):
        return None
    names = [match["tracklet"] for match in found]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([number[name] for name in names])


def _averaged(data: dict, side: str, groups) -> dict:
    """Average the rows of one side by group (N,), and normalise; labels and paths are those of each first row."""
    features = data[side + "f"]
    groups = groups.to(features.device)
    number = int(groups.max()) + 1
    sums = torch.zeros(number, features.shape[1], device=features.device).index_add_(0, groups, features)
    first = torch.full((number,), len(groups), device=groups.device)
    first.scatter_reduce_(0, groups, torch.arange(len(groups), device=groups.device), "amin")
    out = {side + "f": torch.nn.functional.normalize(sums, out=sums)}
    for key in (side + "l", side + "c", side + "t"):
        out[key] = data[key][first.to(data[key].device)]
    paths = data[side + "_paths"]
    out[side + "_paths"] = [paths[i] for i in first.tolist()] if paths else []
    return data | out
