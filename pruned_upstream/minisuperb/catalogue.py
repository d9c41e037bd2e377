"""The corpora: one line each."""

from __future__ import annotations

from .corpora import librispeech, speech_commands
from .plan import Corpus

CORPORA = (
    Corpus(
        "LibriSpeech", ("pr", "asr", "pretrain"), "sentences, phones, words",
        librispeech.SIZES, librispeech.plan,
    ),
    Corpus("speech_commands_v0.01", ("ks",), "30 words, noises", speech_commands.SIZES, speech_commands.plan_train),
    Corpus("speech_commands_test_set_v0.01", ("ks",), "12 classes", speech_commands.SIZES, speech_commands.plan_test),
)  # fmt: skip
