"""The deployed form of a model: an ONNX file that `pruned_upstream.export` has written, run by onnxruntime.

| of the file | what it is |
|---|---|
| input `waveforms` | (batch, samples) float32 at 16 kHz, zero-padded; normalised by the graph if need be |
| input `lengths` | (batch,) int64, samples of each utterance |
| output `hidden_state_{i}` | (batch, frames, d) float32, i = 0 .. L, as `Encoder` gives them |
| output `padding_mask` | (batch, frames) bool, true at padded frames |
| metadata `config`, `provenance` | JSON, as in the model file (`checkpoint.py`) it was exported from |

Of a streaming model, one chunk of live audio may be exported instead (`OnnxStream`):

| of the file | what it is |
|---|---|
| input `samples` | (samples under a chunk,) float32 at 16 kHz |
| input `frames` | (1,) int64, how many of the chunk's frames there are: all of them but in the last |
| inputs `in.*` | what the chunk before left: `out.*` of the same names; zeros before the first |
| output `hidden_state_{i}` | (1, frames of a chunk, d) float32 |
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, PrunedUpstreamError
from ..parsing import MALFORMED, printable, shown
from .extraction import Extracts
from .header import Header, check_readable, parse_description
from .hub import local_file
from .memory import require_memory
from .streaming import chunks

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxOutput(NamedTuple):
    """L + 1 `hidden_states` (B, T, d), and the `padding_mask` (B, T), True at padded frames (None: none is)."""

    hidden_states: list[Tensor]
    padding_mask: Tensor | None


class _OnnxFile:
    """A file that onnxruntime can be asked about, and what it says of itself."""

    def __init__(self, path: str | Path) -> None:
        self.path = local_file(path)
        self.header = read_onnx_header(self.path)
        self.config = self.header.config
        require_packages("onnxruntime")

    def _run(self, session: InferenceSession, given: dict[str, Any]) -> list[Any]:
        try:
            return session.run(None, given)
        except onnxruntime_errors() as error:
            raise _unable(self.path, error) from error


class OnnxEncoder(_OnnxFile, Extracts[OnnxOutput]):
    """An encoder that onnxruntime computes, on the CPU and with as many threads as torch; nothing in it learns.

    Examples:
        >>> encoder = OnnxEncoder("compact.int8.onnx")
        >>> hidden_states = encoder.extract(torch.randn(16000)).hidden_states

    Raises:
        CheckpointError: as `read_onnx_header`.
        PrunedUpstreamError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._sessions: dict[int, InferenceSession] = {}  # by process

    def compute(self, waveforms: Sequence[Tensor]) -> OnnxOutput:
        """Hidden states of waveforms (samples,) in one batch; they lie where the first waveform lay.

        Raises:
            DataError: all are shorter than the front end's receptive field, or too long for the memory that is free.
            CheckpointError: the file computes something else than it describes.
        """
        batch = nn.utils.rnn.pad_sequence([wav.detach().float().cpu() for wav in waveforms], batch_first=True)
        self.config.require_frames(batch.size(1))
        require_memory(self.config, len(batch), batch.size(1), batch.device)
        lengths = torch.tensor([len(wav) for wav in waveforms])
        outputs = self._run(self._session(), {"waveforms": batch.numpy(), "lengths": lengths.numpy()})
        *states, mask = (torch.from_numpy(output).to(waveforms[0].device) for output in outputs)
        shape = (len(waveforms), self.config.frames(batch.size(1)))
        if mask.shape != shape or any(state.shape != (*shape, self.config.embed_dim) for state in states):
            raise CheckpointError(f"{self.path} gives other shapes than its description says; export it again")
        return OnnxOutput(states, mask)

    def _session(self) -> InferenceSession:
        """Opened by the process that computes, for the threads of a session do not survive a fork.

        A session from before the fork is kept: closing it would wait for its threads.
        """
        process = os.getpid()
        if process not in self._sessions:
            session = open_session(self.path, torch.get_num_threads())
            self._require_interface(session)
            self._sessions[process] = session
        return self._sessions[process]

    def _require_interface(self, session: InferenceSession) -> None:
        """Raises CheckpointError where the graph takes or gives something else than the table at the top says."""
        names = tuple([place.name for place in places] for places in (session.get_inputs(), session.get_outputs()))
        states = [f"hidden_state_{i}" for i in range(self.config.num_layers + 1)]
        if "samples" in names[0]:
            raise CheckpointError(f"{self.path} computes a chunk of live audio: use OnnxStream, or export the whole")
        if names != (["waveforms", "lengths"], [*states, "padding_mask"]):
            raise CheckpointError(
                f"{self.path} describes an encoder of {self.config.num_layers} layers, and its graph goes from "
                f"{shown(names[0])} to {shown(names[1])}; export it again"
            )


class OnnxStream(_OnnxFile):
    """A streaming model that onnxruntime computes chunk after chunk, from a file of `pruned-upstream export --live`.

    Examples:
        >>> for output in OnnxStream("live.onnx").stream(microphone):  # an iterator of arrays of any length
        ...     show(output)

    Raises:
        CheckpointError: as `read_onnx_header`; or the file computes whole recordings.
        PrunedUpstreamError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._session = open_session(self.path, torch.get_num_threads())
        self._inputs = self._session.get_inputs()
        names = [place.name for place in self._inputs]
        if names[:2] != ["samples", "frames"]:
            raise CheckpointError(f"{self.path} computes whole recordings: use OnnxEncoder, or export it with --live")

    def stream(self, pieces: Iterable[Any]) -> Iterator[OnnxOutput]:
        """As `Encoder.stream`; each call begins a recording of its own."""
        state = {place.name: np.zeros(place.shape, ONNX_TYPES[place.type]) for place in self._inputs[2:]}
        outputs = [place.name for place in self._session.get_outputs()]
        for samples, frames in chunks(self.config, pieces):
            given = {"samples": samples.cpu().numpy(), "frames": np.array([frames])}
            answer = dict(zip(outputs, self._run(self._session, given | state), strict=True))
            state = {name: answer[name.replace("in.", "out.", 1)] for name in state}
            states = [answer[f"hidden_state_{i}"][:, :frames] for i in range(self.config.num_layers + 1)]
            yield OnnxOutput([torch.from_numpy(values) for values in states], None)


ONNX_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its errors have no ancestor in common but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*found, *MALFORMED)


def open_session(path: str | Path, threads: int) -> InferenceSession:
    """onnxruntime's session on the CPU. Raises CheckpointError: it cannot run what the file describes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except onnxruntime_errors() as error:
        raise _unable(path, error) from error


def _unable(path: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"onnxruntime cannot run {path} ({_reason(error)}); export it again")


def _reason(error: Exception) -> str:
    return printable(str(error)).strip().partition("\n")[0][:200] or type(error).__name__


def read_onnx_header(path: Path) -> Header:
    """The description inside an ONNX file; nothing is computed.

    Raises:
        CheckpointError: the file is missing, damaged, or not written by `pruned-upstream export`.
        PrunedUpstreamError: onnx is not installed.
    """
    check_readable(path)
    require_packages("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except (DecodeError, *MALFORMED) as error:
        raise CheckpointError(
            f"{path} is not a complete ONNX file ({_reason(error)}); copy or export it again"
        ) from error
    if not metadata.keys() >= {"config", "provenance"}:
        raise CheckpointError(
            f"{path} is an ONNX file of another program: it does not say what encoder it holds; make one with "
            "`pruned-upstream export MODEL.safetensors --onnx OUT.onnx`"
        )
    return Header(*parse_description(path, metadata), version="onnx")


def require_packages(*packages: str) -> None:
    """Raises PrunedUpstreamError where one of the packages of the extra `onnx` is missing."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise PrunedUpstreamError(f"ONNX files need {', '.join(missing)}; `pip install pruned_upstream[onnx]`")
