"""Audio SNIPS: requests with slots, under the sixteen voices' names that s3prl's configuration splits by.

A line of all.iob.snips.txt is `UTTERANCE BOS words EOS<tab>O tags intent`; a tag is the slot's name, and a run of the
same tag is one slot (s3prl/s3prl, s3prl/downstream/ctc/text.py, CharacterTextSlotEncoder). Sentences are drawn anew for
each voice, from few words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import speakers
from ..clip import Clip, Take
from ..plan import Plan, line_clip

SPEAKERS = {
    "train": ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"),
    "valid": ("Aditi", "Amy", "Geraint", "Nicole"),
    "test": ("Brian", "Emma", "Raveena", "Russell"),
}
_POOLS = {"train": speakers.TRAIN, "valid": speakers.DEV, "test": speakers.TEST}
_VALUES = {
    "city": ("london", "paris", "new york", "boston", "rome"),
    "timerange": ("today", "tomorrow", "next week", "this evening"),
    "artist": ("adele", "elvis", "madonna", "david bowie"),
    "service": ("spotify", "youtube", "last fm"),
    "cuisine": ("italian", "chinese", "french", "indian"),
    "partysize": ("two", "three", "five", "ten"),
}
_REQUESTS = {
    "GetWeather": (
        "will it rain in {city} {timerange}",
        "what is the weather in {city}",
        "how cold is it in {city} {timerange}",
    ),
    "PlayMusic": ("play {artist} on {service}", "play some {artist}", "open {service} and play {artist}"),
    "BookRestaurant": (
        "book a table for {partysize} in {city}",
        "find {cuisine} food in {city}",
        "book an {cuisine} restaurant for {partysize} {timerange}",
    ),
}


@dataclass(frozen=True)
class Sizes:
    """Requests by each speaker of a split."""

    train: int
    valid: int
    test: int


SIZES = {"demo": Sizes(train=60, valid=10, test=25), "tiny": Sizes(train=2, valid=1, test=1)}


def plan(sizes: Sizes, rng: Random) -> Plan:
    """Sentences with slots by the speakers of each split, and their annotations."""
    clips: list[Clip] = []
    lines: list[str] = []
    for split, names in SPEAKERS.items():
        for name, speaker in zip(names, _POOLS[split], strict=False):
            for i in range(getattr(sizes, split)):
                intent = rng.choice(list(_REQUESTS))
                words, tags = request(intent, rng)
                utterance = f"{name}-snips-{split}-{i}"
                line = speaker.line(" ".join(words), rng, pitch=rng.randint(-6, 6), rate=rng.uniform(0.9, 1.15))
                clips.append(line_clip(f"{split}/{utterance}.wav", line, rng))
                lines.append(f"{utterance} BOS {' '.join(words).upper()} EOS\tO {' '.join(tags)} {intent}")

    def annotate(folder: Path, takes: Sequence[Take]) -> None:
        (folder / "all.iob.snips.txt").write_text("\n".join(lines) + "\n")
        # No last newline: the reader would take what follows it for one more slot.
        (folder / "slots.txt").write_text("\n".join(("O", *sorted(_VALUES))))

    return Plan(clips, annotate)


def request(intent: str, rng: Random) -> tuple[list[str], list[str]]:
    """The words of a request and the slot, or O, of each."""
    words: list[str] = []
    tags: list[str] = []
    for part in rng.choice(_REQUESTS[intent]).split():
        slot = part.strip("{}") if part.startswith("{") else None
        said = rng.choice(_VALUES[slot]).split() if slot else [part]
        words += said
        tags += [slot or "O"] * len(said)
    return words, tags
