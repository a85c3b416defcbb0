"""Read sessions (clips, days or tracks of one identity) from file names, in place of unknown cameras.

Frames of one clip look alike, so images of the query's own session do not count as answers, as with cameras.
"""

import os
from collections import Counter
from collections.abc import Sequence

from appearance.data.names import MOMENT, counters, unmarked

IN_COMPANY = 0.5  # least fraction of images that share their session with another image
ENOUGH_IDENTITIES = 0.5  # least fraction of identities with two or more sessions
SEPARATORS = " _-.(["


def from_names(paths: Sequence[str], identities: Sequence) -> list[str] | None:
    """The session of each image as text; None if the names contain no sessions.

    The session is the part of the name before the number that counts images, with the folder below the identity's and a
    date after the number: `20240317` of `cow_0401_20240317_0018_cls0`, `417-1-6-5` of `417-1-6-5(3)`.

    Args:
        paths: N paths relative to the identity's folder.
        identities: N identities.
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
    if counter is None or stem[counter[1] : counter[1] + 1].isalpha():  # part of a word, not a counter
        return stem
    moments = list(MOMENT.finditer(stem))
    for moment in moments:
        if moment.start() <= counter[0] < moment.end():  # the time of day is the counter, the day the session
            return stem[: moment.end("day")]
    later = [moment["day"] for moment in moments if moment.start() >= counter[1]]
    return " ".join([stem[: counter[0]].rstrip(SEPARATORS), *later]).strip()


def numbered(sessions: Sequence[str]) -> list[int]:
    """N sessions -> N numbers from 1, in the sorted order of the sessions."""
    number = {session: n for n, session in enumerate(sorted(set(sessions)), start=1)}
    return [number[session] for session in sessions]
