"""The benchmark on real weights, without them: its reader of files, its page, what it says when it cannot run."""

from __future__ import annotations

import json
import struct
import sys

import numpy as np
import pytest
import soundfile

from benchmarks.whisper import __main__ as command
from benchmarks.whisper import page, speech, weights
from benchmarks.whisper.students import METHODS


def ctranslate2_file(variables: dict[str, np.ndarray]) -> bytes:
    """As CTranslate2 6 lays a model out (python/ctranslate2/specs/model_spec.py, `_serialize`, on its master)."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {np.dtype(np.int8): 1, np.dtype(np.float16): 4}
    file = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3) + struct.pack("<I", len(variables))
    for name, value in variables.items():
        file += text(name) + struct.pack("<B", value.ndim) + b"".join(struct.pack("<I", n) for n in value.shape)
        file += struct.pack("<BI", kinds[value.dtype], value.nbytes) + value.tobytes()
    return file


def test_half_precision_variables_are_read():
    wanted = np.arange(6, dtype=np.float16).reshape(2, 3)
    file = ctranslate2_file({"flag": np.array(1, np.int8), "encoder/conv1/weight": wanted, "bias": wanted[0]})
    found = dict(weights._variables(file))
    assert list(found) == ["encoder/conv1/weight", "bias"]
    assert np.array_equal(found["encoder/conv1/weight"], wanted) and np.array_equal(found["bias"], wanted[0])
    with pytest.raises(ValueError, match="version 5"):
        list(weights._variables(struct.pack("<I", 5) + file[4:]))


def test_recordings_are_joined_to_windows_of_many_lengths_and_none_is_lost(tmp_path):
    folder, rate = tmp_path / "libri_spk", speech.SAMPLE_RATE
    folder.mkdir()
    rows = ["file,dur,speaker"]
    for number in range(20):
        value = (number + 1) / 32
        soundfile.write(folder / f"{number}.wav", np.full(2 * rate, value, np.float32), rate, subtype="FLOAT")
        rows.append(f"{number}.wav,2.0,{number}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "phones.jsonl").write_text("")
    found = speech.Speech(tmp_path)
    windows = [soundfile.read(path, dtype="float32")[0] for path in sorted(found.joined(tmp_path).iterdir())]
    lengths = {len(window) // rate for window in windows}
    assert len(lengths) > 1 and max(lengths) <= speech.WINDOW_SECONDS
    taught = sorted(round(32 * clip.waveform()[0].item()) for clip in found.read_speech("train"))
    assert sorted(round(32 * window[i]) for window in windows for i in range(0, len(window), 2 * rate)) == taught
    assert found.joined(tmp_path) == tmp_path / "joined"  # once


def answer(name: str, sparsity: float, seed: int, errors: float) -> dict:
    core = {
        "layer residual": errors / 10,
        "last layer": errors / 5,
        "word errors": errors,
        "ms for a window": 100 + errors,
    }
    heads = {f"{question}.{kind}": 50.0 for question in page.QUESTIONS for kind in ("new", "reused")}
    return {
        "name": name,
        "sparsity": sparsity,
        "seed": seed,
        "variant": "",
        "parameters": 7_000_000,
        "budget": f"{1000 * (1 - sparsity):.0f} steps",
        "transcribed": 16,
        "core": core,
        "heads": heads,
    }


def test_the_page_has_every_student_once_with_the_range_of_its_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    (tmp_path / "test").mkdir()
    answers = [answer("teacher", 0.0, 0, 0.0), *(answer("the paper", 0.5, seed, 20.0 + seed) for seed in (0, 2))]
    answers += [answer("random", sparsity, 0, 90.0) for sparsity in (0.5, 0.67)]
    for number, found in enumerate(answers):
        (tmp_path / "test" / f"{number}.json").write_text(json.dumps(found))
    page.write(tmp_path)
    text = (tmp_path / "whisper.md").read_text()
    assert "| 50 % | the paper | 2 | 7.0 | 121.0 (120.0 to 122.0) | 21.0 (20.0 to 22.0) | 16 |" in text
    assert text.count("| random | 1 |") == 2 * 3  # sizes, tables
    assert all(f"| {name} | " in text for name in METHODS)
    assert (tmp_path / "whisper.png").stat().st_size > 10_000
    (tmp_path / "empty").mkdir()
    page.write(tmp_path / "empty")  # from what the page holds
    assert (tmp_path / "whisper.md").read_text() == text


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "NEEDED", ("no_such_package",))
    monkeypatch.setattr(sys, "argv", ["whisper", "--speech", str(tmp_path)])
    with pytest.raises(SystemExit, match="no_such_package, libri_spk"):
        command.main()
