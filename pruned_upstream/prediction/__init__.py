"""From a trained task to an answer: upstream and head of a finished task, run on recordings.

experiment      what was trained: the checkpoint of a run folder, or of s3prl's plain runner
trained         upstream, featurizer and head as one model
recordings      clips, read as the task read its corpus
classes         keyword, speaker, intent, emotion, with probabilities
text            words (ASR), phonemes (PR), words with slots (SF)
turns           who speaks when (SD)
similarity      how alike two voices are (SV)
occurrences     where a query is said in a recording (QbE), which needs no training
"""

from __future__ import annotations

from .task import Answer, TrainedTask, load_task

__all__ = ["Answer", "TrainedTask", "load_task"]
