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

_COMMANDS = "fluent_speech_commands_dataset"

CORPORA = (
    Corpus("LibriSpeech", ("pretrain", "pr", "asr"), "sentences with phones", librispeech.SIZES, librispeech.plan),
    Corpus("speech_commands_v0.01", ("ks",), "30 words", speech_commands.SIZES, speech_commands.plan_train),
    Corpus("speech_commands_test_set_v0.01", ("ks",), "12 classes", speech_commands.SIZES, speech_commands.plan_test),
    Corpus("quesst14Database", ("qbe",), "22 phrases, 60 recordings", quesst14.SIZES, quesst14.plan),
    Corpus("VoxCeleb1", ("sid", "sv"), "24 speakers in five videos", voxceleb1.SIZES, voxceleb1.plan),
    Corpus("diarization", ("sd",), "two speakers in turns", diarization.SIZES, diarization.plan),
    Corpus(_COMMANDS, ("ic",), "14 intents", fluent_speech_commands.SIZES, fluent_speech_commands.plan),
    Corpus("SNIPS", ("sf",), "3 intents, 6 slots", snips.SIZES, snips.plan),
    Corpus("IEMOCAP", ("er",), "4 emotions of prosody", iemocap.SIZES, iemocap.plan),
)
"""In the order in which they are made."""
