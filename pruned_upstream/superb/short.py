"""Short trainings for demonstrations: every task learns something on the miniature corpora within seconds on a CPU.

They are no benchmark. Batches and recurrent heads are smaller, learning rates higher, and nothing is accumulated; the
results are marked as not official wherever they appear. Tried with `fbank_no_cmvn`: in plain `fbank` every utterance
has mean zero, which is all that the mean-pooling heads of KS, SID, IC and ER would see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Short:
    """A short training.

    Attributes:
        steps: optimisation steps.
        overrides: values of the task's yaml to change, `a.b.c` -> value.
        evaluations: how often it is evaluated on the development set, and saved.
    """

    steps: int
    overrides: Mapping[str, Any]
    evaluations: int = 2


def _short(steps: int, lr: float, batch: str, size: int, **others: Any) -> Short:
    overrides = {"optimizer.lr": lr, "runner.gradient_accumulate_steps": 1, f"downstream_expert.{batch}": size}
    return Short(steps, overrides | {f"downstream_expert.{key}": value for key, value in others.items()})


def _letters(steps: int, lr: float, batch: str, size: int, head: str) -> Short:
    """ASR and SF: one recurrent layer of 256 on 20 ms frames, without masking the input."""
    recurrent = {
        "total_rate": 320, "module": "LSTM", "bidirection": True, "dim": [256], "dropout": [0.0],
        "layer_norm": [False], "proj": [False], "sample_rate": [1], "sample_style": "concat",
    }  # fmt: skip
    training = _short(steps, lr, batch, size, **{f"{head}.RNNs": recurrent, f"{head}.project_dim": 256})
    return Short(training.steps, {**training.overrides, "specaug": None})


SHORT: Mapping[str, Short] = {
    "pr": _short(200, 1e-2, "corpus.batch_size", 8),
    "asr": _letters(300, 2e-3, "datarc.batch_size", 8, "modelrc"),
    "ks": _short(200, 2e-3, "datarc.batch_size", 32),
    "sid": _short(200, 3e-3, "datarc.train_batch_size", 16, **{"datarc.max_timestep": 32000}),
    "sv": _short(
        80,
        1e-3,
        "datarc.train_batch_size",
        16,
        **{
            "datarc.max_timestep": 24000,
            "modelrc.input_dim": 128,
            "modelrc.module_config.XVector.agg_dim": 256,
        },
    ),
    # whole recordings, as officially: s3prl does not know who is who from one chunk of a recording to the next
    "sd": _short(100, 4e-3, "loaderrc.train_batchsize", 4, **{"modelrc.hidden_size": 128}),
    "ic": _short(200, 1e-3, "datarc.train_batch_size", 32),
    "sf": _letters(400, 2e-3, "corpus.batch_size", 8, "model"),
    "er": _short(150, 2e-3, "datarc.train_batch_size", 16),
}
