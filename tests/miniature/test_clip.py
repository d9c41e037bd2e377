import json

import numpy as np
import pytest

from pruned_upstream.miniature.clip import SAMPLE_RATE, Clip, Cue, Take, render
from pruned_upstream.miniature.voice import Espeak, Line

HELLO, BOAT = Line("hello there", "m1"), Line("a small boat", "f1")


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("soxr")
    return Espeak()


def test_cues_follow_each_other_by_their_gaps(espeak: Espeak) -> None:
    samples, take = render(Clip("a.wav", (Cue(HELLO, 0.25), Cue(BOAT, -0.2), Cue(HELLO, 0.5)), tail=0.3), espeak)
    first, second, third = take.spoken
    assert first.start == 0.25
    assert second.start == pytest.approx(first.end - 0.2, abs=1e-3)
    assert third.start == pytest.approx(second.end + 0.5, abs=1e-3)
    assert take.seconds == pytest.approx(third.end + 0.3, abs=1e-3) and len(samples) == take.seconds * SAMPLE_RATE
    assert first.phones[0].start == 0.25 and first.phones[-1].end == pytest.approx(first.end, abs=1e-3)
    assert [word.label for word in second.words] == ["a", "small", "boat"]
    assert second.pronunciations == (("AH0",), ("S", "M", "AO1", "L"), ("B", "OW1", "T"))


def test_level_gain_and_noise(espeak: Espeak) -> None:
    def level(part: np.ndarray) -> float:
        return 10 * np.log10(np.mean((part / 32767.0) ** 2))

    clip = Clip("a.wav", (Cue(HELLO, 1.0), Cue(HELLO, 1.0, gain=-12.0)), snr=50.0)
    samples, take = render(clip, espeak)
    loud, soft = (samples[round(s.start * SAMPLE_RATE) : round(s.end * SAMPLE_RATE)] for s in take.spoken)
    assert level(loud) - level(soft) == pytest.approx(12.0, abs=0.3)
    assert level(loud) - level(samples[: SAMPLE_RATE // 2]) == pytest.approx(50.0, abs=4.0)


def test_fixed_length_cuts_and_nothing_clips(espeak: Espeak) -> None:
    samples, take = render(Clip("a.wav", (Cue(HELLO, 0.8, gain=40.0),), seconds=1.0), espeak)
    assert len(samples) == SAMPLE_RATE and take.seconds == 1.0
    assert np.abs(samples.astype(int)).max() <= 0.98 * 32767 + 1


def test_noise_alone_is_its_seed(espeak: Espeak) -> None:
    one, again, other = (render(Clip("n.wav", seconds=0.5, snr=20.0, seed=seed), espeak)[0] for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).any()


def test_other_sample_rate(espeak: Espeak) -> None:
    samples, take = render(Clip("a.wav", (Cue(HELLO),), seconds=1.5, sample_rate=8000), espeak)
    assert len(samples) == 12000 and take.seconds == 1.5


def test_clips_and_takes_survive_json(espeak: Espeak) -> None:
    clip = Clip("a.wav", (Cue(HELLO, 0.1), Cue(BOAT, 0.2, -3.0)), seed=7)
    _, take = render(clip, espeak)
    assert Clip.from_dict(json.loads(json.dumps(clip.to_dict()))) == clip
    assert Take.from_dict(json.loads(json.dumps(take.to_dict()))) == take
