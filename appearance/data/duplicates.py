"""Problems that show when images are compared: copies under two identities or in two splits, and trivial queries."""

from collections import Counter

import numpy as np
import torch

from appearance.cli import counted
from appearance.data.check import Problem, inside, one_camera
from appearance.data.folders import few
from appearance.data.layouts import ReIDData, Sample
from appearance.data.names import UNKNOWN
from appearance.data.similarity import NEAR, STRANGERS, Order, alike, thumbnail_vectors
from appearance.identities import JUNK, nobody

NEIGHBOURS = 0.05  # fraction of queries with a neighbouring frame in the gallery that is tolerated
SPLITS = ("train", "query", "gallery")
TRAIN, QUERY, GALLERY = range(3)


def duplicate_problems(data: ReIDData, thumbnails: dict[str, bytes | None]) -> list[Problem]:
    """Problems with images that are in the dataset twice, or almost.

    Args:
        thumbnails: image path -> thumbnail of `check.look`; images without one match no other.
    """
    return _Compared(data, thumbnails).problems()


class _Compared:
    """All images of a dataset, for pairwise comparison: one per tracklet, no junk."""

    def __init__(self, data: ReIDData, thumbnails: dict[str, bytes | None]):
        self.data = data
        self.samples: list[Sample] = []
        split, seen = [], set()
        for number, samples in enumerate(data.splits().values()):
            for sample in samples:
                tracklet = (number, sample.tracklet)
                if sample.pid != JUNK and (sample.tracklet == UNKNOWN or tracklet not in seen):
                    seen.add(tracklet)
                    split.append(number)
                    self.samples.append(sample)
        self.split, self.pid = np.array(split), np.array([s.pid for s in self.samples])
        self.camera = np.array([s.camera for s in self.samples])
        self.vectors = thumbnail_vectors([thumbnails.get(s.path) for s in self.samples])
        self.single = one_camera(data.tested())

    def problems(self) -> list[Problem]:
        pid, split = torch.from_numpy(self.pid), torch.from_numpy(self.split)
        copies = alike(self.vectors, lambda a, b: (pid[a] != pid[b]) | (split[a] != split[b]))
        order = Order(self.samples)
        frames = order.neighbours()
        likeness = (self.vectors[frames[0]] * self.vectors[frames[1]]).sum(1).numpy()
        same = self.pid[frames[0]] == self.pid[frames[1]]
        place = len(self.samples) * copies[0] + copies[1]  # one number a pair
        no_frames = copies[:, ~np.isin(place, len(self.samples) * frames[0] + frames[1])]
        one_person = frames[:, same & (order.timed[frames[0]] | (likeness >= NEAR))]
        two_people = frames[:, ~same & (likeness >= STRANGERS)]
        found = [*self._two_identities(copies), self._again(copies, two_people)]
        found += [self._copied_queries(no_frames), self._neighbours(one_person)]
        return [problem for problem in found if problem]

    def _two_identities(self, pairs: np.ndarray) -> list[Problem]:
        """The same picture under two identities, within train or within the test splits."""
        parts = (
            ("train", {TRAIN}, "the network learns one person as two"),
            ("query and gallery", {QUERY, GALLERY}, "right answers count as wrong"),
        )
        problems = []
        for name, splits, effect in parts:
            here = self._in(pairs, splits, splits)
            here = here[:, self.pid[here[0]] != self.pid[here[1]]]
            if here.size:
                are = "image is" if here.shape[1] == 1 else "images are"
                text = f"{name}: {here.shape[1]:,} {are} under two identities: {self._who(here)}; "
                problems.append(Problem(False, f"{text}{effect}; merge the two folders, or delete the copies"))
        return problems

    def _again(self, copies: np.ndarray, frames: np.ndarray) -> Problem | None:
        """People who are in train and in the test splits under any name."""
        pairs = self._in(np.concatenate([copies, frames], 1), {TRAIN}, {QUERY, GALLERY})
        pairs = pairs[:, ~np.isin(self.pid[pairs[1]], list(nobody(s.pid for s in self.data.query)))]
        if not pairs.size:
            return None
        again = counted(len({*self.pid[pairs[0]]}), "identity")
        text = f"train and query/gallery: {again} in both, judged by image content: {self._who(pairs)}; rank-1 and mAP "
        return Problem(False, text + "will be too high; move all images of a person to one side")

    def _copied_queries(self, pairs: np.ndarray) -> Problem | None:
        pairs = self._answers(pairs)
        if not pairs.size:
            return None
        queries = len(np.unique(pairs[0]))
        have = "has" if queries == 1 else "have"
        text = f"query and gallery: {queries:,} of {self._queries():,} query images {have} a copy or near-copy in the "
        text += f"gallery ({self._names(pairs)}), which any network finds; delete one of each pair"
        return Problem(False, text)

    def _neighbours(self, pairs: np.ndarray) -> Problem | None:
        """Queries with a neighbouring video frame in the gallery."""
        pairs = self._answers(pairs)
        queries = len(np.unique(pairs[0]))
        if queries <= NEIGHBOURS * self._queries():
            return None
        have = "has a" if queries == 1 else "have a"
        text = f"query and gallery: {queries:,} of {self._queries():,} query images {have} neighbouring frame in the "
        text += f"gallery ({self._names(pairs)}), which any network finds, so rank-1 means nothing; take queries from "
        text += "another time or camera, as `python datasets.py split` does"
        if self.single:
            text += ", or measure with `evaluate.py --protocol reappear`"
        return Problem(False, text)

    def _answers(self, pairs: np.ndarray) -> np.ndarray:
        """The pairs of a query and a right answer that counts: from another camera, unless there is only one."""
        pairs = self._in(pairs, {QUERY}, {GALLERY})
        first, second = pairs
        counts = (self.camera[first] != self.camera[second]) | (self.camera[second] == UNKNOWN) | self.single
        return pairs[:, (self.pid[first] == self.pid[second]) & counts]

    def _in(self, pairs: np.ndarray, first: set[int], second: set[int]) -> np.ndarray:
        """The pairs (2, P) with one image in the splits `first` and the other in the splits `second`, in this order."""
        here = np.isin(self.split[pairs[0]], list(first)) & np.isin(self.split[pairs[1]], list(second))
        return pairs[:, here]  # samples are sorted by split, so the order holds

    def _who(self, pairs: np.ndarray) -> str:
        """The identities in `pairs`, most frequent first, each with an example of two images."""
        both = list(zip(self.pid[pairs[0]].tolist(), self.pid[pairs[1]].tolist(), strict=True))
        told = []
        for (one, other), _ in Counter(both).most_common():
            names = [self.data.names.get(pid, str(pid)) for pid in (one, other)]
            example = pairs[:, [both.index((one, other))]]
            told.append(f"{names[0]} and {names[1]} ({self._names(example)})")
        return few(told)

    def _names(self, pairs: np.ndarray) -> str:
        return " = ".join(inside(self.data, (self.samples[i].path for i in pairs[:, 0])))

    def _queries(self) -> int:
        return len(self.data.query)
