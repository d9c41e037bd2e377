"""espeak-ng through ctypes: one line of text in, samples with the times of its phones and words out.

espeak-ng (GPL-3) and its data come with the `espeakng-loader` wheel and are loaded here only, when a voice first
speaks. The engine keeps state between utterances, so the same line said twice in one process differs; whoever wants the
same bytes again says the same lines in the same order in a fresh process, which is what `studio` does.
Source of the interface: espeak-ng/espeak-ng, src/include/espeak-ng/speak_lib.h.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import PrunedUpstreamError

# Values of speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _DONT_EXIT = 2, 0x0001, 0x8000
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_LIST_TERMINATED, _WORD, _PHONEME = 0, 1, 7
_UTF8 = 1

# The engine clips several voices at its own default of 100.
_HEADROOM_VOLUME = 50


@dataclass(frozen=True)
class Line:
    """What one voice says, and how.

    `variant` is one of espeak-ng's speakers; `pitch` and `range` (of the melody) go from 0 to 99, `rate` is in words a
    minute; `language` is an espeak-ng voice name.
    """

    text: str
    variant: str
    pitch: int = 50
    rate: int = 170
    range: int = 50
    language: str = "en-gb-x-rp"


@dataclass(frozen=True)
class Segment:
    """A phone (espeak-ng's mnemonic, stress mark first) or a word, from `start` to `end` in seconds."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech:
    """Samples (S,) int16 at `sample_rate`; phones, pauses (mnemonics that begin with `_`) included; words as written.

    `phone_words[i]` is the index into `words` of the word that phone i belongs to.
    """

    samples: np.ndarray
    sample_rate: int
    phones: tuple[Segment, ...]
    words: tuple[Segment, ...]
    phone_words: tuple[int, ...]


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The engine, once per process (it is not thread-safe).

    Raises:
        PrunedUpstreamError: the espeakng-loader wheel is not installed, or the engine does not start.
    """

    def __init__(self) -> None:
        loader = _loader()
        self._library = ctypes.CDLL(str(loader.get_library_path()))
        data = os.fsencode(str(loader.get_data_path()))
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS | _DONT_EXIT)
        if self.sample_rate <= 0:
            raise PrunedUpstreamError(
                f"espeak-ng does not start with its data in {os.fsdecode(data)}; reinstall espeakng-loader"
            )
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breathy voices draw noise, by default from the clock
        self._chunks: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, int, str]] = []
        self._callback = _Callback(self._collect)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    @cached_property
    def version(self) -> str:
        """The version of espeak-ng's library."""
        self._library.espeak_Info.restype = ctypes.c_char_p
        return self._library.espeak_Info(None).decode()

    def say(self, line: Line) -> Speech:
        """Speak one line.

        Raises:
            PrunedUpstreamError: espeak-ng has no such voice, or produced no sound.
        """
        name = f"{line.language}+{line.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise PrunedUpstreamError(f"espeak-ng has no voice {name!r}")
        settings = {_RATE: line.rate, _VOLUME: _HEADROOM_VOLUME, _PITCH: line.pitch, _RANGE: line.range}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks.clear()
        self._events.clear()
        text = line.text.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._chunks:
            raise PrunedUpstreamError(f"espeak-ng said nothing for {line.text!r} with voice {name!r}")
        return self._speech(line.text)

    def _collect(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != _LIST_TERMINATED:
            event = events[i]
            phone = event.id.string.decode() if event.type == _PHONEME else ""
            self._events.append((event.type, event.sample, event.text_position, event.length, phone))
            i += 1
        return 0

    def _speech(self, text: str) -> Speech:
        """Events mark starts: a phone ends where the next one begins; a word has the time of its own phones."""
        samples = np.concatenate(self._chunks)
        marks = [event for event in self._events if event[0] in (_PHONEME, _WORD)]
        starts = [event for event in marks if event[0] == _PHONEME]
        ends = [event[1] for event in starts[1:]] + [len(samples)]
        phones: list[Segment] = []
        phone_words: list[int] = []
        words: list[Segment] = []
        for kind, sample, position, length, label in marks:
            at = sample / self.sample_rate
            if kind == _WORD:
                words.append(Segment(text[position - 1 : position - 1 + length], at, at))
                continue
            end = ends[len(phones)] / self.sample_rate
            phones.append(Segment(label, at, end))
            phone_words.append(len(words) - 1)
            if words and not label.startswith("_"):
                word = words[-1]
                words[-1] = Segment(word.label, at if word.end == word.start else word.start, end)
        return Speech(samples, self.sample_rate, tuple(phones), tuple(words), tuple(phone_words))


def _loader():
    try:
        import espeakng_loader
    except ImportError as error:
        raise PrunedUpstreamError(
            "the self-made corpora are spoken by espeak-ng, which is not installed; pip install 'pruned_upstream[demo]'"
        ) from error
    return espeakng_loader
