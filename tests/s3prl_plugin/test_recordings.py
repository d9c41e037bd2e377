"""s3prl's own readers name a recording that is not what they take, wherever in the corpus it lies."""

from __future__ import annotations

import numpy as np
import pytest

from pruned_upstream.errors import DataError
from pruned_upstream.s3prl_plugin.registry import register

pytest.importorskip("s3prl")
soundfile = pytest.importorskip("soundfile")


def read(reader: str, path: str) -> object:
    register()
    if reader == "sd":
        from s3prl.downstream.diarization.dataset import KaldiData

        return KaldiData._load_wav(None, path)
    from s3prl.downstream.ctc.data import collect_audio_batch

    return collect_audio_batch([(path, [1])], "dev")


@pytest.mark.parametrize("reader", ["sd", "ctc"])
@pytest.mark.parametrize(
    ("rate", "channels", "words"),
    [
        (8000, 1, "a.wav has 8000 Hz and 1 channel;"),
        (48000, 1, "a.wav has 48000 Hz and 1 channel;"),
        (16000, 2, "a.wav has 16000 Hz and 2 channels;"),
        (0, 1, "a.wav cannot be read as audio"),
        (16000, 1, None),
    ],
)
def test_a_recording_of_another_format_is_named(tmp_path, reader, rate, channels, words):
    path = tmp_path / "a.wav"
    if rate:
        soundfile.write(path, np.zeros((1600, channels)), rate)
    else:
        path.write_text("no audio")
    if words is None:
        assert read(reader, str(path)) is not None
    else:
        with pytest.raises(DataError, match=words):
            read(reader, str(path))
