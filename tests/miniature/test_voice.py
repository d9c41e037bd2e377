import sys

import numpy as np
import pytest

from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.miniature.voice import Espeak, Line


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    pytest.importorskip("espeakng_loader")
    return Espeak()


def test_times_of_phones_and_words(espeak: Espeak) -> None:
    speech = espeak.say(Line("The old farmer found a small boat.", "m1"))
    seconds = len(speech.samples) / speech.sample_rate
    starts = [phone.start for phone in speech.phones]
    assert starts == sorted(starts)
    assert all(one.end == other.start for one, other in zip(speech.phones, speech.phones[1:], strict=False))
    assert speech.phones[-1].end == pytest.approx(seconds)
    assert [word.label for word in speech.words] == "The old farmer found a small boat".split()
    assert all(word.start < word.end for word in speech.words)
    assert all(one.end <= other.start for one, other in zip(speech.words, speech.words[1:], strict=False))
    of_boat = [phone.label for phone, word in zip(speech.phones, speech.phone_words, strict=True) if word == 6]
    assert of_boat[:3] == ["b", "'oU", "t"]


def test_phones_lie_where_the_sound_is(espeak: Espeak) -> None:
    speech = espeak.say(Line("See, see, see.", "m1"))
    energy = {True: [], False: []}
    for phone in speech.phones:
        part = speech.samples[round(phone.start * speech.sample_rate) : round(phone.end * speech.sample_rate)]
        if len(part):
            energy[phone.label.startswith("_")].append(float(np.mean(part.astype(float) ** 2)))
    assert max(energy[True]) < 0.01 * min(energy[False])


def test_rate_and_pitch_are_heard(espeak: Espeak) -> None:
    slow, fast = (espeak.say(Line("seven silver candles", "m1", rate=rate)).samples for rate in (120, 240))
    assert len(slow) > 1.5 * len(fast)
    low, high = (_period(espeak.say(Line("aaah", "m1", pitch=pitch, range=0))) for pitch in (20, 80))
    assert low > 1.3 * high


def test_another_language(espeak: Espeak) -> None:
    speech = espeak.say(Line("Guten Morgen", "f3", language="de"))
    assert [word.label for word in speech.words] == ["Guten", "Morgen"]


def test_unknown_voice(espeak: Espeak) -> None:
    with pytest.raises(PrunedUpstreamError, match=r"no voice 'xx-nowhere\+f3'"):
        espeak.say(Line("hello", "f3", language="xx-nowhere"))


def test_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(PrunedUpstreamError, match=r"pip install 'pruned_upstream\[demo\]'"):
        Espeak()


def _period(speech) -> float:
    """Period in samples, the median over loud frames: the first lag, between 60 and 400 Hz, at which a frame is nearly
    as like itself as at the best one (a multiple of the period is as good as the period)."""
    shortest, longest = speech.sample_rate // 400, speech.sample_rate // 60
    samples = speech.samples.astype(float)
    periods = []
    for start in range(0, len(samples) - 1024, 256):
        frame = samples[start : start + 1024]
        if frame.std() > 0.3 * samples.std():
            likeness = np.array([np.corrcoef(frame[:-lag], frame[lag:])[0, 1] for lag in range(shortest, longest)])
            periods.append(shortest + int(np.argmax(likeness > 0.9 * likeness.max())))
    return float(np.median(periods))
