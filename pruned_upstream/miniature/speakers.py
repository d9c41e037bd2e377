"""Who speaks: espeak-ng's voice variants as speakers, in three disjoint pools.

Left out are the whispering, robotic and demonic variants and those that are copies of another one up to the pitch.
A pool's men and women alternate as far as they go, so that its first few speakers are mixed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import chain, zip_longest
from random import Random

from .voice import Line


@dataclass(frozen=True)
class Speaker:
    """A voice with habits of its own: the pitch and rate around which it speaks."""

    variant: str
    pitch: int
    rate: int

    def line(self, text: str, rng: Random, *, pitch: int = 0, rate: float = 1.0, range: int = 50) -> Line:
        """`text` in this voice, a little different each time; `pitch` and `rate` move away from the habit."""
        return Line(
            text,
            self.variant,
            pitch=min(99, max(0, self.pitch + pitch + rng.randint(-4, 4))),
            rate=min(260, max(110, round(self.rate * rate * rng.uniform(0.93, 1.07)))),
            range=min(99, max(0, range + rng.randint(-8, 8))),
        )


def _speaker(variant: str) -> Speaker:
    habits = Random(zlib.crc32(variant.encode()))
    return Speaker(variant, pitch=habits.randint(38, 62), rate=habits.randint(155, 190))


def _pool(women: str, men: str) -> tuple[Speaker, ...]:
    pairs = zip_longest(women.split(), men.split())
    return tuple(_speaker(variant) for variant in chain.from_iterable(pairs) if variant is not None)


TRAIN = _pool(
    women="f1 Andrea linda Alicia f2 grandma Annie aunty",
    men="m1 adam paul Gene Lee sandro marcelo iven benjamin m2 edward klatt3 m6 pedro norbert max boris Diogo michel "
    "travis m7 robert antonio pablo Mario Jacky Reed gustave Michael ed Marco Nguyen caleb announcer m4 victor",
)
DEV = _pool(women="shelby f5 steph", men="Mike john Alex rob m8 ian quincy")
TEST = _pool(women="f3 belinda f4 anika", men="m3 Andy david Denis iven4 edward2 m5 grandpa miguel Hugo")
