"""Foreign checkpoints as encoders of ours, whoever published them.

One module per source, each with its table of names. Every key of a file counts: it becomes one of our tensors,
or it is on the source's list of what only pre-training uses, or loading stops and names it. What a file is, is seen
from what it holds. Nothing is unpickled but tensors, plain containers and inert stand-ins (`pickles.py`), and a string
is never evaluated.
"""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError, ConfigError
from ...parsing import MALFORMED, is_text, shown
from ..checkpoint import assemble, load
from ..encoder import Dropout, Encoder
from ..header import CONVERSION, check_readable, in_folder_of_transformers, is_onnx
from ..hub import require_local
from . import fairseq, finetuned, lighthubert, peers, torchaudio, wavlm, whisper
from .pickles import read_pickle
from .source import Found, Source
from .transformers import read_folder

SOURCES = (
    Source("LightHuBERT ('cfg' of a hubert_pruner and 'model')", lighthubert.recognises, lighthubert.read),
    Source("WavLM ('cfg' and 'model')", wavlm.recognises, wavlm.read),
    Source(
        "HuBERT, wav2vec 2.0 or data2vec of fairseq ('model' with 'args' or 'cfg')", fairseq.recognises, fairseq.read
    ),
    Source(
        "s3prl's copies of them ('model_weight', 'model_cfg' and 'task_cfg')",
        fairseq.recognises_copy,
        fairseq.read_copy,
    ),
    Source("Whisper of OpenAI ('dims' and 'model_state_dict')", whisper.recognises, whisper.read),
    Source("DistilHuBERT ('Distiller' and 'Config')", peers.recognises_distiller, peers.read_distiller),
    Source("state dicts of torchaudio's wav2vec 2.0, HuBERT and WavLM", torchaudio.recognises, torchaudio.read),
    Source(
        "DPHuBERT, DPWavLM and DiariZen's WavLM ('state_dict' and 'config')",
        peers.recognises_dphubert,
        peers.read_dphubert,
    ),
)
FINETUNED = Source(
    "a checkpoint of s3prl's runner ('Upstream', where -f was given)", finetuned.recognises, finetuned.read
)
SAFETENSORS_HEADER = slice(8, 9)  # after eight bytes of length, an object of JSON


def load_teacher(
    path: str | Path,
    *,
    dropout: Dropout = Dropout(),
    prediction_heads: bool = False,
    base: str | Path | None = None,
) -> Encoder:
    """The encoder of a published checkpoint, in evaluation mode.

    Args:
        prediction_heads: keep those of a distilled student (DistilHuBERT), which the published sizes leave out.
        path: a file of one of the `SOURCES`, a transformers folder (wavlm, hubert, wav2vec2, data2vec-audio,
            whisper), or a file of our own.
        base: of a checkpoint of s3prl's runner, the model file that was finetuned, where it has moved since.

    Raises:
        CheckpointError: missing, truncated or foreign file, a pickle that could run code, keys or shapes that do not
            fit.
    """
    path = require_local(path)
    if os.path.isdir(path):
        found = read_folder(path)
    else:
        check_readable(path)
        if is_onnx(path) or is_safetensors(path):  # `load` says what is wrong with the first
            return load(path, dropout=dropout)
        found = _read_file(path, base)
    if not prediction_heads:
        found = _without_heads(found)
    return assemble(found.config, found.tensors, source=str(path), dropout=dropout)


def _without_heads(found: Found) -> Found:
    own = {name: tensor for name, tensor in found.tensors.items() if not name.startswith("prediction_heads.")}
    return Found(dataclasses.replace(found.config, prediction_heads=0), own)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as those do: as every model file of ours."""
    with open(path, "rb") as file:
        return file.read(16)[SAFETENSORS_HEADER] == b"{"


def _read_file(path: Path, base: str | Path | None) -> Found:
    checkpoint = read_pickle(path)
    finetuned_one = dataclasses.replace(FINETUNED, read=partial(finetuned.read, base=base))
    for source in (*SOURCES, finetuned_one) if isinstance(checkpoint, dict) else ():
        try:
            if source.recognises(checkpoint):
                return _of_tensors(source.read(checkpoint))
        except ConfigError as error:
            raise CheckpointError(f"{path}, taken for {source.description}: {error}") from error
        except MALFORMED as error:
            raise CheckpointError(
                f"{path}, taken for {source.description}, is not built like one ({shown(error)}); download it again"
            ) from error
    if in_folder_of_transformers(path):
        raise CheckpointError(
            f"{path} is none of the known files; of a folder as transformers writes them, "
            f"{CONVERSION.format(path.parent)}"
        )
    is_dict = isinstance(checkpoint, dict)
    found = f"the keys {shown(sorted(map(str, checkpoint)))}" if is_dict else f"a {type(checkpoint).__name__}"
    known = "; ".join(source.description for source in (*SOURCES, FINETUNED))
    raise CheckpointError(f"{path} holds {found}; known are {known}; and folders of transformers and files of our own")


def _of_tensors(found: Found) -> Found:
    strange = [name for name, tensor in found.tensors.items() if not (is_text(name) and isinstance(tensor, Tensor))]
    if strange:
        raise ConfigError(f"{', '.join(map(shown, strange[:4]))} should be tensors")
    return found
