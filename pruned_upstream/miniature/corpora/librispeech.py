"""LibriSpeech: labelled splits for PR and ASR, and train-clean-360 as the demo teacher's unlabelled speech.

The labelled splits say short sentences of a small vocabulary, so that a CTC head finds its words within a few hundred
steps; train-clean-360 says longer ones with as many sounds as the grammar has. Train, dev and test voices are disjoint.
The lexicon gives each word its commonest pronunciation in this very speech: the official one gives one per word, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import speakers
from ..clip import Clip, Take
from ..plan import Plan, line_clip
from ..sentences import sentence, short_sentence, transcript

LEXICON = "librispeech-lexicon.txt"


@dataclass(frozen=True)
class Sizes:
    """Per split: (speakers, utterances of each)."""

    unlabelled: tuple[int, int]
    train: tuple[int, int]
    dev: tuple[int, int]
    test: tuple[int, int]


SIZES = {
    "demo": Sizes(unlabelled=(44, 12), train=(44, 7), dev=(10, 6), test=(14, 10)),
    "tiny": Sizes(unlabelled=(2, 2), train=(4, 2), dev=(2, 2), test=(2, 2)),
}


def plan(sizes: Sizes, rng: Random) -> Plan:
    """Sentences read by speakers of each split, with transcripts and chapters as LibriSpeech has them."""
    splits = (
        ("train-clean-360", speakers.TRAIN, sizes.unlabelled, sentence, 1000),
        ("train-clean-100", speakers.TRAIN, sizes.train, short_sentence, 1000),
        ("dev-clean", speakers.DEV, sizes.dev, short_sentence, 2000),
        ("test-clean", speakers.TEST, sizes.test, short_sentence, 3000),
    )
    clips: list[Clip] = []
    for split, pool, (count, utterances), say, first_id in splits:
        for number, speaker in enumerate(pool[:count], start=first_id):
            # The same reader in both training splits, in another chapter of each.
            chapter = 100 * number + (60 if split == "train-clean-360" else 10)
            for i in range(utterances):
                text = say(rng)
                line = speaker.line(
                    text, rng, pitch=rng.randint(-8, 8), rate=rng.uniform(0.85, 1.2), range=rng.randint(30, 70)
                )
                clips.append(line_clip(f"{split}/{number}/{chapter}/{number}-{chapter}-{i:04d}.flac", line, rng))
    return Plan(clips, lambda folder, takes: _annotate(folder, clips, takes))


def _annotate(folder: Path, clips: Sequence[Clip], takes: Sequence[Take]) -> None:
    transcripts: dict[Path, list[str]] = defaultdict(list)
    alignments: dict[str, list[str]] = defaultdict(lambda: ["utterance\tphone\tstart\tend"])
    pronunciations: dict[str, Counter[str]] = defaultdict(Counter)
    for recorded, take in zip(clips, takes, strict=True):
        path = folder / take.path
        text = transcript(recorded.cues[0].line.text)
        chapter = path.parent / f"{path.parent.parent.name}-{path.parent.name}.trans.txt"
        transcripts[chapter].append(f"{path.stem} {text}")
        spoken = take.spoken[0]
        alignments[Path(take.path).parts[0]] += [
            f"{path.stem}\t{p.label}\t{p.start:.4f}\t{p.end:.4f}" for p in spoken.phones
        ]
        for word, phones in zip(text.split(), spoken.pronunciations, strict=True):
            pronunciations[word][" ".join(phones)] += 1
    for chapter, lines in transcripts.items():
        chapter.write_text("\n".join(lines) + "\n")
    (folder / "alignments").mkdir()
    for split, lines in alignments.items():
        (folder / "alignments" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    lexicon = [f"{word} {_commonest(counts)}" for word, counts in sorted(pronunciations.items())]
    (folder / LEXICON).write_text("\n".join(lexicon) + "\n")


def _commonest(counts: Counter[str]) -> str:
    return min(counts, key=lambda phones: (-counts[phones], phones))
