"""What is wrong with a dataset that only its pictures show: copies of images, and test images that are no test."""

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

NEIGHBOURS = 0.05  # share of queries with a neighbouring frame in the gallery, below which it is no matter
SPLITS = ("train", "query", "gallery")
TRAIN, QUERY, GALLERY = range(3)


def duplicate_problems(data: ReIDData, thumbnails: dict[str, bytes | None]) -> list[Problem]:
    """What pictures show that lie in two places.

    Args:
        thumbnails: of each image by its path, as `check.look` makes them; without one it is like no other.
    """
    return _Compared(data, thumbnails).problems()


class _Compared:
    """The images of a dataset side by side: of a tracklet the first, no junk."""

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
        """One picture under two names, on one side of train and test."""
        parts = (
            ("train", {TRAIN}, "the network is taught that one person is two"),
            ("query and gallery", {QUERY, GALLERY}, "right answers count as wrong ones"),
        )
        problems = []
        for name, splits, effect in parts:
            here = self._in(pairs, splits, splits)
            here = here[:, self.pid[here[0]] != self.pid[here[1]]]
            if here.size:
                are = "image is" if here.shape[1] == 1 else "images are"
                text = f"{name}: {here.shape[1]:,} {are} under two identities: {self._who(here)}; "
                problems.append(Problem(False, f"{text}{effect}: make one folder of the two, or delete the copies"))
        return problems

    def _again(self, copies: np.ndarray, frames: np.ndarray) -> Problem | None:
        """People of train who are tested on, whatever their names."""
        pairs = self._in(np.concatenate([copies, frames], 1), {TRAIN}, {QUERY, GALLERY})
        pairs = pairs[:, ~np.isin(self.pid[pairs[1]], list(nobody(s.pid for s in self.data.query)))]
        if not pairs.size:
            return None
        again = counted(len({*self.pid[pairs[0]]}), "identity")
        text = f"train and query/gallery: {again} in both, judged by image content: {self._who(pairs)}; rank-1 and mAP "
        return Problem(False, text + "are too good for new people: move all images of a person to one side")

    def _copied_queries(self, pairs: np.ndarray) -> Problem | None:
        pairs = self._answers(pairs)
        if not pairs.size:
            return None
        queries = len(np.unique(pairs[0]))
        have = "has" if queries == 1 else "have"
        text = (
            f"query and gallery: {queries:,} of {self._queries():,} query images {have} a copy, or nearly one, in the "
        )
        text += f"gallery ({self._names(pairs)}), which any network finds: delete it from one of the two"
        return Problem(False, text)

    def _neighbours(self, pairs: np.ndarray) -> Problem | None:
        """Query and gallery images from one moment of one video."""
        pairs = self._answers(pairs)
        queries = len(np.unique(pairs[0]))
        if queries <= NEIGHBOURS * self._queries():
            return None
        have = "has a" if queries == 1 else "have a"
        text = f"query and gallery: {queries:,} of {self._queries():,} query images {have} neighbouring frame of their "
        text += f"track in the gallery ({self._names(pairs)}), which any network finds: rank-1 means nothing; take "
        text += "queries from another time or camera, as `python datasets.py split` does"
        if self.single:
            text += ", or measure with `evaluate.py --protocol reappear`"
        return Problem(False, text)

    def _answers(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs of a query and a right answer to it that counts: not of the same camera, if there are two."""
        pairs = self._in(pairs, {QUERY}, {GALLERY})
        first, second = pairs
        counts = (self.camera[first] != self.camera[second]) | (self.camera[second] == UNKNOWN) | self.single
        return pairs[:, (self.pid[first] == self.pid[second]) & counts]

    def _in(self, pairs: np.ndarray, first: set[int], second: set[int]) -> np.ndarray:
        """Those of the pairs with one image in each of two groups of splits; the images of the first group first."""
        here = np.isin(self.split[pairs[0]], list(first)) & np.isin(self.split[pairs[1]], list(second))
        return pairs[:, here]  # positions ascend from train to gallery, so they are in order

    def _who(self, pairs: np.ndarray) -> str:
        """The two identities of most pairs, with a pair of images for each."""
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
