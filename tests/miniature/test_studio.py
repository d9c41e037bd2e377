import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.miniature import studio
from pruned_upstream.miniature.clip import Clip, Cue
from pruned_upstream.miniature.voice import Line

pytest.importorskip("espeakng_loader")
pytest.importorskip("soxr")
soundfile = pytest.importorskip("soundfile")

# A breathy voice (f3), whose noise espeak-ng draws from the clock by default, and one of the Klatt synthesiser.
CLIPS = [
    Clip(f"{i}_{variant}.wav", (Cue(Line("the red fish took a bell", variant), 0.1),), seed=i)
    for i, variant in enumerate(("f1", "m1", "f3", "klatt3"))
]
# Of the samples of these four clips in one shard; x86-64, espeakng-loader 0.2.4, soxr 1.1.0.
GOLDEN = "7cd4de7e0c21fc0d5f19d8306051e27d4d6c9fda0f7e01f55410794a31fa127a"


def _hash(folder: Path) -> str:
    samples = (soundfile.read(folder / clip.path, dtype="int16")[0].tobytes() for clip in CLIPS)
    return hashlib.sha256(b"".join(samples)).hexdigest()


def test_fresh_processes_repeat_each_other_and_the_golden_shard(tmp_path: Path) -> None:
    takes = [studio.record(CLIPS, tmp_path / name, workers=workers) for name, workers in (("one", 1), ("two", 2))]
    assert takes[0] == takes[1]
    assert [take.path for take in takes[0]] == [clip.path for clip in CLIPS]
    assert _hash(tmp_path / "one") == _hash(tmp_path / "two")
    if (platform.machine(), version("espeakng-loader"), version("soxr")) != ("x86_64", "0.2.4", "1.1.0"):
        pytest.skip("the golden shard was recorded on x86-64 with espeakng-loader 0.2.4 and soxr 1.1.0")
    assert _hash(tmp_path / "one") == GOLDEN


def test_workers_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "SHARD", 2)
    done: list[int] = []
    takes = studio.record(CLIPS, tmp_path / "one", workers=1, progress=done.append)
    assert studio.record(CLIPS, tmp_path / "two", workers=2) == takes
    assert _hash(tmp_path / "one") == _hash(tmp_path / "two")
    assert done == [2, 2]


def test_a_failing_shard_says_why(tmp_path: Path) -> None:
    with pytest.raises(PrunedUpstreamError, match=r"espeak-ng has no voice 'xx-nowhere\+f3'"):
        studio.record([Clip("a.wav", (Cue(Line("hello", "f3", language="xx-nowhere")),))], tmp_path)
