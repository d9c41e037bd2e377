"""Two corpora never share a cache, and none is written into s3prl."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import pruned_upstream
from pruned_upstream.s3prl_plugin import caches

pytest.importorskip("s3prl")


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pruned_upstream.register()
    return tmp_path / "cache"


def corpus(root: Path, seconds: float) -> Path:
    """VoxCeleb1's layout: one recording each of two speakers, and its split list."""
    random = np.random.RandomState(0)
    for speaker in ("id10001", "id10002"):
        path = root / "dev" / "wav" / speaker / "video" / "00001.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * random.uniform(-1, 1, int(16000 * seconds)), 16000)
    (root / "split.txt").write_text("1 id10001/video/00001.wav\n1 id10002/video/00001.wav\n")
    return root


def test_identification(tmp_path, cache_home):
    from s3prl.downstream.voxceleb1 import dataset

    for name in ("first", "second", "first"):
        root = tmp_path / name if (tmp_path / name).exists() else corpus(tmp_path / name, 0.1)
        found = dataset.SpeakerClassifiDataset("train", file_path=root, meta_data=str(root / "split.txt"))
        assert [Path(path).is_relative_to(root) for path in found.dataset] == [True, True]
    assert len(list(cache_home.rglob("train.pkl"))) == 2
    assert not (Path(dataset.__file__).parent / ".cache").exists()


def test_verification(tmp_path, cache_home):
    from s3prl.downstream.sv_voxceleb1 import dataset

    package = Path(dataset.__spec__.origin).parent  # `__file__` leads into the cache once any corpus was read
    for name, seconds, kept in (("long", 2.5, 2), ("short", 1.0, 0)):
        root = corpus(tmp_path / name, seconds) / "dev" / "wav"
        options = {"vad_config": {"min_sec": 32000}, "key_list": ["Voxceleb1"], "meta_data": None, "n_jobs": 1}
        found = dataset.SpeakerVerifi_train(file_path=[root], **options)
        assert len(found) == kept
    assert len(list(cache_home.rglob("Voxceleb1_length.pt"))) == 2
    assert not (package / ".wav_lengths").exists()


def test_the_name_follows_the_files(tmp_path):
    root = corpus(tmp_path / "corpus", 0.1)
    before = caches.fingerprint(root)
    assert caches.fingerprint(root) == before
    (root / "dev" / "wav" / "id10001" / "video" / "00002.wav").touch()
    after = caches.fingerprint(root)
    assert after != before
    assert caches.fingerprint(root / "split.txt") not in (before, after)
