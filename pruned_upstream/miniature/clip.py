"""A clip: lines placed in time on a bed of noise, written as one 16 kHz mono file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..model.config import SAMPLE_RATE
from .phones import align, is_pause
from .voice import Espeak, Line, Segment

_SPEECH_RMS = 0.06  # every line is brought to this level, then to its cue's gain
_PEAK = 0.98


@dataclass(frozen=True)
class Cue:
    """A line that starts `gap` seconds after the line before it ends, or before that if the gap is negative.

    The first line's gap is the lead-in. `gain` is in dB against the common level.
    """

    line: Line
    gap: float = 0.0
    gain: float = 0.0


@dataclass(frozen=True)
class Clip:
    """A sound file to be made.

    `path` is relative to the corpus. The clip ends `tail` seconds after the last line, or is `seconds` long in all,
    which cuts what does not fit. The noise is `snr` dB below the common speech level; `colour` is the exponent of its
    1/f^colour spectrum and `seed` its draw. The file has 16 kHz but where the official corpus has another rate.
    """

    path: str
    cues: tuple[Cue, ...] = ()
    tail: float = 0.1
    seconds: float | None = None
    snr: float = 40.0
    colour: float = 1.0
    seed: int = 0
    sample_rate: int = SAMPLE_RATE

    def to_dict(self) -> dict[str, Any]:
        """The clip as what JSON holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Clip:
        """The clip that `to_dict` wrote."""
        cues = tuple(Cue(Line(**cue["line"]), cue["gap"], cue["gain"]) for cue in fields["cues"])
        return cls(**{**fields, "cues": cues})


@dataclass(frozen=True)
class Spoken:
    """Where a cue came to lie in its clip, in seconds: the whole line, its phones and its words.

    Phones are ARPAbet in English, else espeak-ng's mnemonics; `pronunciations[i]` are those of word i, pauses left out.
    """

    start: float
    end: float
    phones: tuple[Segment, ...]
    words: tuple[Segment, ...]
    pronunciations: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Take:
    """A clip as recorded: how long it is, and its cues as spoken."""

    path: str
    seconds: float
    spoken: tuple[Spoken, ...]

    def to_dict(self) -> dict[str, Any]:
        """The take as what JSON holds."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Take:
        """The take that `to_dict` wrote."""
        spoken = tuple(
            Spoken(
                cue["start"],
                cue["end"],
                tuple(Segment(**phone) for phone in cue["phones"]),
                tuple(Segment(**word) for word in cue["words"]),
                tuple(tuple(phones) for phones in cue["pronunciations"]),
            )
            for cue in fields["spoken"]
        )
        return cls(fields["path"], fields["seconds"], spoken)


def render(clip: Clip, espeak: Espeak) -> tuple[np.ndarray, Take]:
    """Samples (S,) int16 of the clip at its rate, and what lies where."""
    parts: list[tuple[int, np.ndarray]] = []
    spoken: list[Spoken] = []
    end = 0.0
    for cue in clip.cues:
        wave, line = _perform(cue, espeak)
        start = max(0, round((end + cue.gap) * SAMPLE_RATE))
        parts.append((start, wave))
        spoken.append(_moved(line, start / SAMPLE_RATE))
        end = spoken[-1].end
    total = round((clip.seconds if clip.seconds is not None else end + clip.tail) * SAMPLE_RATE)
    mixture = _noise(clip, total)
    for start, wave in parts:
        wave = wave[: max(0, total - start)]
        mixture[start : start + len(wave)] += wave
    mixture = _resample(mixture, SAMPLE_RATE, clip.sample_rate)
    mixture *= min(1.0, _PEAK / max(np.abs(mixture).max(), 1e-9))
    samples = np.round(mixture * 32767).astype(np.int16)
    return samples, Take(clip.path, len(samples) / clip.sample_rate, tuple(spoken))


def write(samples: np.ndarray, sample_rate: int, path: Path) -> None:
    """Write 16-bit samples as the format that the path's suffix names."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate, subtype="PCM_16")


def _perform(cue: Cue, espeak: Espeak) -> tuple[np.ndarray, Spoken]:
    """One line at 16 kHz, from its first phone to its last, at its level."""
    speech = espeak.say(cue.line)
    voiced = [phone for phone in speech.phones if not is_pause(phone.label)]
    start, end = voiced[0].start, voiced[-1].end
    first, last = round(start * speech.sample_rate), round(end * speech.sample_rate)
    wave = _resample(speech.samples[first:last].astype(np.float64), speech.sample_rate, SAMPLE_RATE)
    wave *= _SPEECH_RMS * 10 ** (cue.gain / 20) / max(np.sqrt(np.mean(wave**2)), 1e-9)

    transcribe = align if cue.line.language.startswith("en") else tuple
    pronunciations = []
    for i in range(len(speech.words)):
        of_word = [phone for phone, word in zip(speech.phones, speech.phone_words, strict=True) if word == i]
        pronunciations.append(tuple(phone.label for phone in transcribe(of_word) if not is_pause(phone.label)))
    inside = tuple(transcribe(phone for phone in speech.phones if start <= phone.start < end))
    return wave, _moved(Spoken(start, end, inside, speech.words, tuple(pronunciations)), -start)


def _resample(wave: np.ndarray, sample_rate: int, wanted: int) -> np.ndarray:
    import soxr

    return soxr.resample(wave, sample_rate, wanted, quality="VHQ")


def _moved(line: Spoken, by: float) -> Spoken:
    def shift(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        return tuple(Segment(s.label, round(s.start + by, 4), round(s.end + by, 4)) for s in segments)

    return Spoken(
        round(line.start + by, 4), round(line.end + by, 4), shift(line.phones), shift(line.words), line.pronunciations
    )


def _noise(clip: Clip, total: int) -> np.ndarray:
    """Noise (S,) with a 1/f^colour power spectrum, `snr` dB below the common speech level."""
    length = 1 << max(1, total - 1).bit_length()  # a power of two, for the transform's sake
    spectrum = np.fft.rfft(np.random.default_rng(clip.seed).standard_normal(length))
    frequencies = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(frequencies, 50.0) ** (-clip.colour / 2)
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, length)[:total]
    return noise * (_SPEECH_RMS * 10 ** (-clip.snr / 20) / max(np.sqrt(np.mean(noise**2)), 1e-9))
