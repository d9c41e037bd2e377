"""QUESST 2014: phrases as spoken queries, recordings that hold them or not, and where they occur; 8 kHz, as officially.

Every recording holds one of the dev and one of the eval phrases, and every phrase occurs in several, spoken by voices
that ask no query. A few recordings in Albanian, a language of the evaluation, are in the lists for the readers to leave
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .. import speakers
from ..clip import Clip, Take
from ..plan import Plan, line_clip
from ..sentences import sentence
from ..voice import Line

SAMPLE_RATE = 8_000
_PHRASES = {
    "dev": (
        "golden window|yellow basket|empty kitchen|gentle monkey|seven mountains|foolish captain|wooden ladder|"
        "quiet harbour|broken engine|silver candle"
    ).split("|"),
    "eval": (
        "orange jacket|rusty hammer|clever neighbour|heavy television|noisy station|purple violin|hungry tiger|"
        "frozen valley|paper castle|kitchen garden|twenty sailors|sudden thunder"
    ).split("|"),
}
_FRAMES = (
    "My father saw the {0} before we came to the {1}.",
    "Nobody believed in the {1}, but the {0} was there.",
    "She spoke about the {0} and then about the {1}.",
    "Once there was a {1}, and behind it a {0}.",
    "I would rather have the {0} than the {1}.",
)
_ALBANIAN = ("Sot është një ditë e bukur.", "Ku është shtëpia e vjetër?", "Djali lexon një libër të ri.")


@dataclass(frozen=True)
class Sizes:
    """Recordings in English, and phrases of each set."""

    recordings: int
    phrases: dict[str, int]


SIZES = {
    "demo": Sizes(recordings=60, phrases={"dev": 10, "eval": 12}),
    "tiny": Sizes(recordings=4, phrases={"dev": 2, "eval": 2}),
}


def plan(sizes: Sizes, rng: Random) -> Plan:
    """Recordings that hold phrases, spoken queries for them, and which query occurs where."""
    phrases = {key: _PHRASES[key][: sizes.phrases[key]] for key in _PHRASES}
    clips: list[Clip] = []
    listings: dict[str, list[str]] = {"utterances": [], "dev": [], "eval": []}
    occurrences: dict[str, list[tuple[str, int]]] = {"dev": [], "eval": []}

    def add(listing: str, path: str, line: Line, language: str = "nnenglish") -> None:
        clips.append(line_clip(path, line, rng, sample_rate=SAMPLE_RATE))
        listings[listing].append(f"quesst14Database/{path} {language}")

    for i in range(sizes.recordings):
        held = {key: i % len(phrases[key]) for key in phrases}
        speaker = speakers.TRAIN[i % len(speakers.TRAIN)]
        text = rng.choice(_FRAMES).format(*(phrases[key][held[key]] for key in phrases))
        if rng.random() < 0.5:
            text += " " + sentence(rng)
        for key, which in held.items():
            occurrences[key].append((_recording(i), which))
        add("utterances", f"Audio/{_recording(i)}.wav", speaker.line(text, rng, rate=rng.uniform(0.9, 1.15)))
    for i, text in enumerate(_ALBANIAN, start=sizes.recordings):
        add("utterances", f"Audio/{_recording(i)}.wav", Line(text, "m3", language="sq"), "albanian")
    for key, pool in (("dev", speakers.DEV), ("eval", speakers.TEST)):
        for i, phrase in enumerate(phrases[key]):
            line = pool[i % len(pool)].line(phrase, rng, rate=rng.uniform(0.9, 1.05))
            add(key, f"{key}_queries/{_query(key, i)}.wav", line)

    def annotate(folder: Path, takes: Sequence[Take]) -> None:
        scoring = folder / "scoring"
        scoring.mkdir()
        for key, lines in listings.items():
            (scoring / f"language_key_{key}.lst").write_text("\n".join(lines) + "\n")
        seconds = {Path(take.path).stem: take.seconds for take in takes[: sizes.recordings]}
        for key in occurrences:
            _write_ground_truth(
                scoring / f"groundtruth_quesst14_{key}", key, seconds, occurrences[key], len(phrases[key])
            )

    return Plan(clips, annotate)


def _recording(i: int) -> str:
    return f"quesst14_{i + 1:05d}"


def _query(key: str, i: int) -> str:
    return f"quesst14_{key}_{i + 1:04d}"


def _write_ground_truth(
    folder: Path, key: str, seconds: dict[str, float], occurrences: Sequence[tuple[str, int]], queries: int
) -> None:
    """Formats: NIST 2006 Spoken Term Detection evaluation plan, and RTTM's LEXEME lines with the query as the word."""
    folder.mkdir()
    rttm = [
        f"LEXEME {recording} 1 0.000 {seconds[recording]:.3f} {_query(key, which)} lex <NA> <NA>"
        for recording, which in occurrences
    ]
    (folder / f"quesst14_{key}.rttm").write_text("\n".join(rttm) + "\n")
    excerpts = [
        f'  <excerpt audio_filename="{name}" channel="1" tbeg="0.000" dur="{length:.3f}" source_type="splitcts"/>'
        for name, length in seconds.items()
    ]
    ecf = [f'<ecf source_signal_duration="{sum(seconds.values()):.3f}" version="1">', *excerpts, "</ecf>"]
    (folder / "quesst14.ecf.xml").write_text("\n".join(ecf) + "\n")
    names = [_query(key, i) for i in range(queries)]
    terms = [f'  <term termid="{name}"><termtext>{name}</termtext></term>' for name in names]
    tlist = ['<termlist ecf_filename="quesst14.ecf.xml" language="nnenglish" version="1">', *terms, "</termlist>"]
    (folder / f"quesst14_{key}.tlist.xml").write_text("\n".join(tlist) + "\n")
