"""The lines of docs/trackers.md, each in the program it is for; skipped where that is not installed."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, call_script, make_market
from test_documented_commands import FENCED

PAGE = (ROOT / "docs" / "trackers.md").read_text("utf-8")
FIRST = """
import sys
sys.path.append({root!r})
import numpy as np
frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
boxes = np.array([[20.0, 30.0, 40.0, 110.0], [120.0, 40.0, 50.0, 120.0], [220.0, 20.0, 45.0, 100.0]])
scores = np.array([0.9, 0.8, 0.7])
"""
ULTRALYTICS = """
from ultralytics import YOLO
YOLO("yolo11n.yaml").track(frame, tracker="reid.yaml", verbose=False)
from ultralytics.trackers.bot_sort import BOTSORT
from ultralytics.utils import IterableSimpleNamespace
assert BOTSORT(IterableSimpleNamespace(**YAML.load("reid.yaml"))).encoder.imgsz == (64, 32)
"""
# heading: packages, flags of export.py before, lines after
SECTIONS = {
    "deep-sort-realtime": (("deep_sort_realtime",), (), "assert len(tracks) == 3"),
    "BoxMOT": (("boxmot",), (), "assert tracks.shape[1] >= 7"),
    "Ultralytics": (("ultralytics", "onnxruntime"), ("--for", "ultralytics"), ULTRALYTICS),
    "Roboflow's reid": (("reid", "safetensors"), ("--for", "reid"), "assert same.shape == (3, 3) and same[0, 0]"),
    "norfair": (("norfair",), (), "assert len(tracker.tracked_objects) == 3"),
    "Any other program": (
        ("onnx", "onnxruntime"),
        ("--format", "onnx", "--normalize", "inside"),
        "assert abs(np.diag(distances)).max() < 1e-5",
    ),
    "deep_sort": (("DEEP_SORT",), (), "assert len(tracker.tracks) == 3"),
    "deep_sort_pytorch": (("DEEP_SORT_PYTORCH",), (), "assert tracker.extractor.height == 64"),
}
CLONES = {"deep_sort", "deep_sort_pytorch"}  # in no package index; variables name folders with clones


def lines_of(heading: str) -> str:
    part = re.split(r"^## ", PAGE.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return next(text for language, text in FENCED.findall(part) if language == "python")


@pytest.mark.parametrize("heading", SECTIONS)
def test_lines(heading, tmp_path):
    packages, flags, after = SECTIONS[heading]
    first = FIRST.format(root=str(ROOT))
    for package in packages:
        if heading in CLONES:
            folder = os.environ.get(package)
            if not folder:
                pytest.skip(f"{package} names no folder with a clone of {heading}")
            first = f"import sys\nsys.path.insert(0, {folder!r})\n" + first
        else:
            pytest.importorskip(package)
    if flags:
        done = call_script("export.py", *flags, "--data-dir", make_market(tmp_path / "market"), cwd=tmp_path)
        assert done.code == 0, done.stderr
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    program = first + lines_of(heading) + "\n" + after + "\nprint('understood')\n"
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"YOLO_CONFIG_DIR": str(tmp_path)},
    )
    assert done.stdout.endswith("understood\n"), done.stdout + done.stderr


OWN_EXTRACTOR = """
import os, sys
sys.path.insert(0, os.environ["DEEP_SORT_PYTORCH"])
sys.path += [{root!r}, {root!r} + "/examples"]
import numpy as np
import scene
from deep_sort.deep.feature_extractor import Extractor
from deep_sort.deep_sort import DeepSort
weights = {root!r} + "/weights/ckpt.t7"
tracker = DeepSort(weights, use_cuda=False)
tracker.extractor = Extractor(weights, use_cuda=False)  # its own, also where the page's line has replaced it
tracker.extractor.net.eval()
drawn = scene.record(seed=0, frames=60)
for frame, boxes in list(zip(drawn.frames, drawn.detections))[-10:]:
    centres = np.hstack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]])
    tracker.update(centres, np.ones(len(boxes)), np.zeros(len(boxes), int), frame)
people = set(np.concatenate(drawn.people[-10:]).tolist())
print(len(people), sum(track.is_confirmed() for track in tracker.tracker.tracks))
"""


def test_deep_sort_pytorch_tracks_with_the_weights_as_they_are():
    """Its own Extractor loads weights/ckpt.t7, and in ten frames of a drawn scene each person has one track."""
    if not os.environ.get("DEEP_SORT_PYTORCH"):
        pytest.skip("DEEP_SORT_PYTORCH names no folder with a clone of deep_sort_pytorch")
    pytest.importorskip("cv2")
    program = OWN_EXTRACTOR.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["6", "6"], done.stdout + done.stderr


def test_each_tracker_of_the_table_has_its_section():
    linked = re.findall(r"^\| \[([^\]]+)\]\(#([^)]+)\)", PAGE, re.MULTILINE)
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(linked) == 8
    assert {anchor for _, anchor in linked} <= anchors
