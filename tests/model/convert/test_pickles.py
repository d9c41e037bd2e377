"""Nothing in a pickle runs: known classes become inert, others are refused by name."""

from __future__ import annotations

import argparse
import builtins
import functools
import os
import sys
import zipfile

import pytest
import torch

from pruned_upstream.errors import CheckpointError, ConfigError
from pruned_upstream.model.convert.pickles import Inert, plain, read_pickle
from pruned_upstream.model.safe_loading import allowed_by_torch


class Calls:
    """Pickled as a call of `function`, which unpickling would carry out."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Foreign:
    """A class that the reader need not know."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("named", "payload"),
    [
        (r"posix\.mkdir|nt\.mkdir", lambda trace: Calls(os.mkdir, trace)),
        (r"builtins\.eval", lambda trace: Calls(eval, f"__import__('os').mkdir({trace!r})")),
        (r"builtins\.exec", lambda trace: Calls(builtins.exec, f"open({trace!r}, 'w')")),
        (r"posix\.mkdir|nt\.mkdir", lambda trace: functools.partial(os.mkdir, trace)),
        ("Foreign", lambda trace: Foreign()),
    ],
)
def test_a_pickle_with_code_does_not_run(named, payload, zipped, tmp_path):
    trace = tmp_path / "trace"
    torch.save({"model": {}, "extra": payload(str(trace))}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"names .*({named}).*could run code"):
        read_pickle(tmp_path / "a.pt")
    assert not trace.exists()


def test_a_package_of_a_known_name_is_not_imported(tmp_path, monkeypatch):
    """A file may name what it likes inside fairseq; a module of that name that lies about is not touched."""
    trace = tmp_path / "trace"
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "__init__.py").write_text("class Task:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fairseq

    torch.save({"task": Calls(fairseq.Task)}, tmp_path / "a.pt")
    del sys.modules["fairseq"]
    (tmp_path / "fairseq" / "__init__.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    task = read_pickle(tmp_path / "a.pt")["task"]
    assert isinstance(task, Inert) and type(task).__name__ == "Task"
    assert "fairseq" not in sys.modules and not trace.exists()


def test_nothing_stays_allowed(tmp_path):
    torch.save(argparse.Namespace(a=1), tmp_path / "a.pt")
    before = set(torch.serialization.get_safe_globals())
    assert read_pickle(tmp_path / "a.pt").a == 1
    assert set(torch.serialization.get_safe_globals()) == before


def test_plain_data_is_kept(tmp_path):
    data = {"set": {1, 2}, "bytes": bytearray(b"a"), "complex": 1j, "tuple": (1, None), "long": 2**70, "text": "é"}
    torch.save(data, tmp_path / "a.pt")
    assert read_pickle(tmp_path / "a.pt") == data


@pytest.mark.parametrize("holder", ["Namespace", "dictionary", "omegaconf"])
def test_options_become_plain(holder, tmp_path):
    from omegaconf import OmegaConf

    inner = {"layers": [1, 2], "name": "hubert", "rate": 0.5, "no": None, "yes": True, "pair": (1, 2)}
    tree = {"model": inner}
    held = {
        "Namespace": argparse.Namespace(model=argparse.Namespace(**inner)),
        "dictionary": tree,
        "omegaconf": OmegaConf.create(tree),
    }[holder]
    torch.save(held, tmp_path / "a.pt")
    found = plain(read_pickle(tmp_path / "a.pt"))
    assert list(found["model"].pop("pair")) == [1, 2]  # omegaconf makes a list of it in some versions
    assert found == {"model": {name: value for name, value in inner.items() if name != "pair"}}


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(zipped, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": {"weight": torch.zeros(1000)}}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (1, 100, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            read_pickle(path)
    path.write_text("not a checkpoint at all")
    with pytest.raises(CheckpointError, match="no checkpoint of torch"):
        read_pickle(path)
    with pytest.raises(CheckpointError, match="no model file"):
        read_pickle(tmp_path / "absent.pt")


def test_what_was_allowed_before_stays_allowed(tmp_path):
    """s3prl's own checkpoints hold a Namespace, which its compatibility layer has torch allow for good."""
    path = tmp_path / "model.pt"
    torch.save({"args": argparse.Namespace(layers=2)}, path)
    with allowed_by_torch(argparse.Namespace):
        read_pickle(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_options_that_contain_themselves_or_stand_for_too_many(tmp_path):
    itself: dict = {}
    itself["self"] = itself
    bomb: list = []
    for _ in range(40):
        bomb = [bomb, bomb]
    for tree in (itself, {"a": bomb}):
        with pytest.raises(ConfigError, match="contain themselves"):
            plain(tree)


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 50_000_000)
    with pytest.raises(CheckpointError, match="compressed archive"):
        read_pickle(tmp_path / "a.pt")
