"""The corpora: one line each."""

from __future__ import annotations

from .corpora import (
    diarization,
    fluent_speech_commands,
    iemocap,
    librispeech,
    quesst14,
    snips,
    speech_commands,
    voxceleb1,
)
from .plan import Corpus

CORPORA = (
    Corpus("LibriSpeech", ("pretrain", "pr", "asr"), librispeech.SIZES, librispeech.plan),
    Corpus("speech_commands_v0.01", ("ks",), speech_commands.SIZES, speech_commands.plan_train),
    Corpus("speech_commands_test_set_v0.01", ("ks",), speech_commands.SIZES, speech_commands.plan_test),
    Corpus("quesst14Database", ("qbe",), quesst14.SIZES, quesst14.plan),
    Corpus("VoxCeleb1", ("sid", "sv"), voxceleb1.SIZES, voxceleb1.plan),
    Corpus("diarization", ("sd",), diarization.SIZES, diarization.plan),
    Corpus("fluent_speech_commands_dataset", ("ic",), fluent_speech_commands.SIZES, fluent_speech_commands.plan),
    Corpus("SNIPS", ("sf",), snips.SIZES, snips.plan),
    Corpus("IEMOCAP", ("er",), iemocap.SIZES, iemocap.plan),
)
"""In the order in which they are made."""
