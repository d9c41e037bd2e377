"""libsox is the oracle: the golden numbers are those of torchaudio 2.0.2, whose wheel still contained it."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin.sox_effects import apply_effects_file, apply_effects_tensor

# as s3prl's speech_commands/dataset.py and sv_voxceleb1/dataset.py have them
KEYWORDS = [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"]]
SILENCE = ["silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"]

# seed of `loud_and_soft` -> samples that are left, and the sum of their magnitudes
LIBSOX_SILENCE = {
    0: (8633, 146.805),
    1: (13520, 433.091),
    2: (0, 0.0),
    3: (12401, 263.959),
    4: (10052, 247.396),
    5: (12659, 405.916),
    6: (27305, 732.18),
    7: (8337, 218.447),
    8: (7459, 260.618),
    9: (11236, 11.042),
    10: (6333, 146.732),
    11: (11122, 11.064),
}


def loud_and_soft(seed: int, rate: int = 16000) -> torch.Tensor:
    """Eight stretches of noise, from silence to speech in loudness, 0.02 to 0.33 s each; (1, samples)."""
    random = np.random.RandomState(seed)
    parts = []
    for _ in range(8):
        level = random.choice([0, 0.0005, 0.002, 0.1])
        parts.append(level * random.uniform(-1, 1, random.randint(rate // 50, rate // 3)))
    return torch.from_numpy(np.round(np.concatenate(parts) * 32767) / 32768).float()[None]


@pytest.mark.parametrize("seed", sorted(LIBSOX_SILENCE))
def test_silence_is_cut_as_libsox_cuts_it(seed):
    kept, rate = apply_effects_tensor(loud_and_soft(seed), 16000, [SILENCE])
    samples, magnitude = LIBSOX_SILENCE[seed]
    assert (kept.shape, rate) == ((1, samples), 16000)
    assert kept.abs().double().sum().item() == pytest.approx(magnitude, abs=5e-4)


def test_resampling_and_gain_as_libsox():
    seconds = np.arange(8000) / 8000
    tones = 0.4 * np.sin(2 * np.pi * 440 * seconds) + 0.2 * np.sin(2 * np.pi * 1200 * seconds)
    wav, rate = apply_effects_tensor(torch.from_numpy(tones).float()[None], 8000, KEYWORDS)
    assert (wav.shape, rate) == ((1, 16000), 16000)
    golden = torch.tensor([0.002631, 0.091664, 0.112967, 0.210471, 0.280149, -0.091664])
    assert torch.allclose(wav[0, [0, 1, 4001, 8002, 12003, 15999]], golden, rtol=0, atol=1e-5)


def test_mixing_down_and_clipping_as_libsox():
    stereo = torch.tensor([[0.9, -1.0, 0.5], [0.1, -1.0, -0.5]])
    mixed, _ = apply_effects_tensor(stereo, 16000, [["channels", "1"], ["gain", "3.0"]])
    assert torch.allclose(mixed, torch.tensor([[0.7063, -1.0, 0.0]]), atol=5e-5)


@given(st.integers(0, 2**32 - 1))
def test_what_is_left_holds_no_long_silence(seed):
    once, _ = apply_effects_tensor(loud_and_soft(seed), 16000, [SILENCE])
    loud = once.abs()[0] > 0
    longest = max((len(run) for run in "".join("x" if value else " " for value in loud.tolist()).split("x")), default=0)
    assert longest < 1600 + 320  # 0.1 s, and what the loudness remembers of the sound before


def test_workers_started_afresh_have_the_effects(tmp_path):
    soundfile.write(tmp_path / "a.wav", loud_and_soft(0)[0].numpy(), 16000, subtype="PCM_16")

    def trimmed_length(path: str) -> int:  # as s3prl's speaker verification does it
        return apply_effects_file(path, [SILENCE])[0].shape[1]

    lengths = joblib.Parallel(n_jobs=2)(joblib.delayed(trimmed_length)(str(tmp_path / "a.wav")) for _ in range(2))
    assert lengths == [LIBSOX_SILENCE[0][0]] * 2


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (["reverb", "50"], "'reverb' is not built in"),
        (["channels", "2"], "only mixing down"),
        (["silence", "2", "0.1", "0.1%", "-1", "0.1", "0.1%"], "periods 1 and -1"),
        (["silence", "1", "0.1", "-60d", "-1", "0.1", "0.1%"], "thresholds in percent"),
    ],
)
def test_effects_out_of_reach_are_refused(effect, words):
    with pytest.raises(DataError, match=words):
        apply_effects_tensor(loud_and_soft(0), 16000, [effect])
