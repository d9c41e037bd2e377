import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from pruned_upstream.errors import ConfigError, DataError, PrunedUpstreamError
from pruned_upstream.miniature import CORPORA, STAMP, build, building
from pruned_upstream.miniature.clip import Clip, Cue, Take
from pruned_upstream.miniature.plan import Corpus, Plan
from pruned_upstream.miniature.voice import Line


def _toy_plan(clips: int, rng: Random) -> Plan:
    def annotate(folder: Path, takes: Sequence[Take]) -> None:
        (folder / "list.txt").write_text("\n".join(take.path for take in takes))

    line = Line("yes", "m1", pitch=rng.randint(30, 70))
    return Plan([Clip(f"wav/{i}.wav", (Cue(line),), seed=i) for i in range(clips)], annotate)


TOY = Corpus("Toy", ("ks",), {"tiny": 2, "demo": 3}, _toy_plan)
OTHER = Corpus("Other", ("sd",), {"tiny": 1, "demo": 1}, _toy_plan)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root where two corpora of a word each can be built, and one is."""
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("soxr")
    monkeypatch.setattr(building, "CORPORA", (TOY, OTHER))
    assert build(tmp_path, ["ks"], scale="tiny") == {"Toy": tmp_path / "Toy"}
    return tmp_path


def sounds(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.rglob("*.wav"))}


def test_every_task_is_served() -> None:
    assert {task for corpus in CORPORA for task in corpus.tasks} == {
        "pretrain", "pr", "asr", "ks", "qbe", "sid", "sv", "sd", "ic", "sf", "er",
    }  # fmt: skip


def test_only_the_wanted_corpora_whole_and_stamped(root: Path) -> None:
    assert [path.name for path in root.iterdir()] == ["Toy"]
    assert (root / "Toy/list.txt").read_text() == "wav/0.wav\nwav/1.wav"
    assert sounds(root).keys() == {"0.wav", "1.wav"}
    stamp = json.loads((root / "Toy" / STAMP).read_text())
    assert (stamp["scale"], stamp["seed"], stamp["clips"]) == ("tiny", 0, 2)


def test_what_is_there_is_not_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_recording(*_, **__):
        raise AssertionError("recorded again")

    monkeypatch.setattr(building, "record", no_recording)
    build(root, ["ks"], scale="tiny")


def test_scale_seed_and_recipe_make_it_anew(root: Path) -> None:
    before = sounds(root)
    build(root, ["ks"], scale="demo")
    assert sounds(root).keys() == {"0.wav", "1.wav", "2.wav"}
    build(root, ["ks"], scale="tiny", seed=1)
    assert sounds(root)["0.wav"] != before["0.wav"]
    build(root, ["ks"], scale="tiny")
    assert sounds(root) == before


@pytest.mark.parametrize("stamp", ["{", "{}", '{"recipe": "of yesterday"}'])
def test_damaged_or_outdated_stamps_make_it_anew(root: Path, stamp: str) -> None:
    before = sounds(root)
    (root / "Toy" / STAMP).write_text(stamp)
    (root / "Toy" / "stray.wav").write_bytes(b"RIFF")
    build(root, ["ks"], scale="tiny")
    assert sounds(root) == before
    assert json.loads((root / "Toy" / STAMP).read_text())["clips"] == 2


def test_what_a_killed_process_left_is_cleared(root: Path) -> None:
    leftover = root / ".Other.unfinished"
    leftover.mkdir()
    (leftover / "half.wav").write_bytes(b"RIFF")
    build(root, scale="tiny")
    assert sounds(root / "Other").keys() == {"0.wav"}
    assert not leftover.exists()


def test_a_failed_recording_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_, **__):
        raise PrunedUpstreamError("the voice broke")

    monkeypatch.setattr(building, "record", broken)
    with pytest.raises(PrunedUpstreamError, match="the voice broke"):
        build(root, scale="tiny")
    assert [path.name for path in root.iterdir()] == ["Toy"]


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "SNIPS").mkdir()
    (tmp_path / "SNIPS" / "slots.txt").write_text("O")
    with pytest.raises(DataError, match="was not made here"):
        build(tmp_path, ["sf"], scale="tiny")
    assert (tmp_path / "SNIPS" / "slots.txt").read_text() == "O"


def test_progress_counts_clips(root: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    build(root, ["ks", "sd"], scale="demo", progress=lambda *call: calls.append(call))
    assert calls == [("Toy", 3, 3), ("Other", 1, 1)]


def test_unknown_task_and_scale(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no corpus serves st; the tasks are asr"):
        build(tmp_path, ["ks", "st"])
    with pytest.raises(ConfigError, match="scale 'huge' is unknown"):
        build(tmp_path, scale="huge")


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunedUpstreamError, match="could not write"):
        build(tmp_path / "file", ["qbe"], scale="tiny")
