"""Sessions: clips, days or tracks of one identity, told from names where no camera is known.

Neighbouring frames of one clip look alike, so a clip is left out of the answers to its own images as a camera is.
"""

import os
from collections import Counter
from collections.abc import Sequence

from appearance.data.names import MOMENT, counters, unmarked

IN_COMPANY = 0.5  # share of the images that need another of their identity and session, or the names number images
ENOUGH_IDENTITIES = 0.5  # share of the identities that need two sessions
SEPARATORS = " _-.(["


def from_names(paths: Sequence[str], identities: Sequence) -> list[str] | None:
    """The session of each image, the same text for images of one session; None where names do not tell sessions.

    A session is what stands in front of the number that counts its images, with the folder below the identity's and a
    date that stands behind the number: `20240317` of `cow_0401_20240317_0018_cls0`, `417-1-6-5` of `417-1-6-5(3)`.

    Args:
        paths: as seen from the identity's folder, (N).
        identities: (N).
    """
    folders, stems = zip(*(os.path.split(os.path.splitext(path)[0]) for path in paths), strict=True)
    stems = [unmarked(stem) for stem in stems]
    sessions = [
        os.path.join(folder, _session(stem, counter))
        for folder, stem, counter in zip(folders, stems, counters(stems), strict=True)
    ]
    known = set(zip(identities, sessions, strict=True))
    for row, (folder, stem) in enumerate(zip(folders, stems, strict=True)):
        whole = os.path.join(folder, stem)
        if (identities[row], whole) in known:  # walk.jpg beside walk(1).jpg
            sessions[row] = whole
    count = Counter(zip(identities, sessions, strict=True))
    several = Counter(identity for identity, _ in count)
    enough = sum(n > 1 for n in several.values()) >= ENOUGH_IDENTITIES * len(several)
    in_company = sum(n for n in count.values() if n > 1) >= IN_COMPANY * len(paths)
    return sessions if enough and in_company else None


def _session(stem: str, counter: tuple[int, int] | None) -> str:
    if counter is None or stem[counter[1] : counter[1] + 1].isalpha():  # a number in a word counts nothing
        return stem
    moments = list(MOMENT.finditer(stem))
    for moment in moments:
        if moment.start() <= counter[0] < moment.end():  # the time of day counts the images of a day
            return stem[: moment.end("day")]
    later = [moment["day"] for moment in moments if moment.start() >= counter[1]]
    return " ".join([stem[: counter[0]].rstrip(SEPARATORS), *later]).strip()


def numbered(sessions: Sequence[str]) -> list[int]:
    """A number from 1 for each session (N,), in the order of their names."""
    number = {session: n for n, session in enumerate(sorted(set(sessions)), start=1)}
    return [number[session] for session in sessions]
