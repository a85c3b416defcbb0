"""A small DeepSORT: Kalman filter, matching cascade by appearance, then matching by overlap.

Wojke et al., "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017. It shows the effect
of appearance vectors on a tracker. Constants are those of the paper unless noted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GATE = 9.4877  # 95 % quantile of the chi-squared distribution with 4 degrees of freedom
REFUSED = 1e5  # cost of a forbidden match


class Kalman:
    """Constant-velocity Kalman filter over (centre x, centre y, aspect ratio, height) in pixels; paper, section 2.1.

    Noise is proportional to the height.
    """

    POSITION, VELOCITY = 1 / 20, 1 / 160  # standard deviations per frame, as fractions of the height
    STEP = np.eye(8) + np.eye(8, k=4)  # transition matrix: position += velocity

    def __init__(self, measured: np.ndarray):
        self.mean = np.concatenate([measured, np.zeros(4)])  # (8,)
        self.covariance = np.diag(self._deviations(2, 10) ** 2)  # (8, 8)

    def _deviations(self, position: float, velocity: float) -> np.ndarray:
        height = self.mean[3]
        p, v = position * self.POSITION * height, velocity * self.VELOCITY * height
        return np.array([p, p, 1e-2, p, v, v, 1e-5, v])

    def predict(self) -> None:
        """Advance by one frame."""
        self.mean = self.STEP @ self.mean
        self.covariance = self.STEP @ self.covariance @ self.STEP.T
        self.covariance[range(8), range(8)] += self._deviations(1, 1) ** 2

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the next measurement: (4,), (4, 4)."""
        p = self.POSITION * self.mean[3]
        return self.mean[:4], self.covariance[:4, :4] + np.diag(np.array([p, p, 1e-1, p]) ** 2)

    def update(self, measured: np.ndarray) -> None:
        """Correct the state with a measurement (4,)."""
        mean, covariance = self.expected()
        gain = np.linalg.solve(covariance, self.covariance[:4]).T  # (8, 4)
        self.mean = self.mean + gain @ (measured - mean)
        self.covariance = self.covariance - gain @ covariance @ gain.T


def distances(motions: Sequence[Kalman], measured: np.ndarray) -> np.ndarray:
    """(m, n) squared Mahalanobis distances between m predictions and n measurements (n, 4)."""
    means, covariances = zip(*(motion.expected() for motion in motions), strict=True)
    away = measured - np.stack(means)[:, None]  # (m, n, 4)
    return (away @ np.linalg.inv(np.stack(covariances)) * away).sum(2)


@dataclass
class Track:
    """The state of one track."""

    number: int
    motion: Kalman
    memory: np.ndarray  # (budget, D) ring buffer of the last appearance vectors
    hits: int = 0  # number of matched detections
    age: int = 0  # frames since the last match
    confirmed: bool = False

    def remember(self, vector: np.ndarray) -> None:
        """Store the vector (D,) of a matched detection."""
        self.memory[self.hits % len(self.memory)] = vector
        self.hits += 1

    def gallery(self) -> np.ndarray:
        """The stored vectors: (n, D)."""
        return self.memory[: self.hits]

    def box(self) -> np.ndarray:
        """The predicted box (4,): left, top, width, height in pixels."""
        x, y, aspect, height = self.motion.mean[:4]
        return np.array([x - aspect * height / 2, y - height / 2, aspect * height, height])


class Tracker:
    """Assign track numbers to detections, frame by frame.

    Args:
        max_distance: largest cosine distance of an appearance match; None: track by motion alone.
        max_age: frames without a match after which a track is deleted.
        n_init: consecutive matches that confirm a track.
        budget: number of vectors stored per track.
        min_overlap: smallest intersection over union of an overlap match.
    """

    def __init__(self, max_distance=0.2, max_age: int = 60, n_init: int = 3, budget: int = 100, min_overlap=0.3):
        self.max_distance, self.max_age, self.n_init = max_distance, max_age, n_init
        self.budget, self.min_overlap = budget, min_overlap
        self.tracks: list[Track] = []
        self.made = 0

    def update(self, boxes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Process one frame.

        Args:
            boxes: (n, 4) left, top, width, height in pixels.
            vectors: (n, D) unit rows; ignored when tracking by motion alone.

        Returns:
            (n,) int: track number of each detection, -1 while a track is not confirmed.
        """
        measured = np.column_stack([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2] / boxes[:, 3], boxes[:, 3]])
        for track in self.tracks:
            track.motion.predict()
            track.age += 1
        numbers, free = np.full(len(boxes), -1), list(range(len(boxes)))
        waiting = [track for track in self.tracks if track.confirmed]
        if self.max_distance is not None:
            ages = {track.age for track in waiting if track.age <= self.max_age}
            for age in sorted(ages):  # recently seen tracks first (paper, 2.3)
                self._match([t for t in waiting if t.age == age], free, self._appearance, measured, vectors, numbers)
        recent = 1 if self.max_distance is not None else self.max_age
        left = [t for t in self.tracks if t.age and t.age <= (recent if t.confirmed else 1)]
        self._match(left, free, self._overlap, measured, vectors, numbers, boxes)
        for index in free:
            self.made += 1
            track = Track(self.made, Kalman(measured[index]), np.empty((self.budget, vectors.shape[1]), np.float32))
            track.remember(vectors[index])
            self.tracks.append(track)
        self.tracks = [t for t in self.tracks if t.age <= (self.max_age if t.confirmed else 0)]
        return numbers

    def _match(self, tracks, free, cost_of, measured, vectors, numbers, boxes=None) -> None:
        """Match tracks to the detections in `free` at minimum cost; writes `numbers`, removes matches from `free`."""
        if not tracks or not free:
            return
        pairs = assign(cost_of(tracks, measured[free], vectors[free], None if boxes is None else boxes[free]))
        for row, column in pairs:
            track, index = tracks[row], free[column]
            track.motion.update(measured[index])
            track.remember(vectors[index])
            track.age = 0
            track.confirmed |= track.hits >= self.n_init
            if track.confirmed:
                numbers[index] = track.number
        taken = {column for _, column in pairs}
        free[:] = [index for column, index in enumerate(free) if column not in taken]

    def _appearance(self, tracks, measured, vectors, boxes) -> np.ndarray:
        """(tracks, detections) costs: smallest cosine distance to a stored vector, REFUSED if too far away."""
        cost = np.stack([1 - (track.gallery() @ vectors.T).max(0) for track in tracks])
        gate = distances([track.motion for track in tracks], measured)
        return np.where((cost > self.max_distance) | (gate > GATE), REFUSED, cost)

    def _overlap(self, tracks, measured, vectors, boxes) -> np.ndarray:
        """(tracks, detections) costs: 1 - intersection over union, REFUSED below `min_overlap`."""
        shared = overlap(np.stack([track.box() for track in tracks]), boxes)
        return np.where(shared < self.min_overlap, REFUSED, 1 - shared)


def assign(cost: np.ndarray) -> list[tuple[int, int]]:
    """The (row, column) pairs of minimum total cost, without forbidden ones. Needs scipy."""
    from scipy.optimize import linear_sum_assignment

    return [(r, c) for r, c in zip(*linear_sum_assignment(cost), strict=True) if cost[r, c] < REFUSED]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) intersection over union of boxes (n, 4) and (m, 4): left, top, width, height."""
    a, b = a[:, None], b[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = (high - low).clip(min=0).prod(-1)
    return shared / (a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared)
