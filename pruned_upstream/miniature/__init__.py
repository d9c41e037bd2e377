"""Self-made miniature corpora in the official layouts of the ten SUPERB tasks.

Every word is spoken by espeak-ng, so the corpora are real words by several voices, with true phones, intents and slots,
and the same bytes on every run. They exercise each reader and each metric and can be learnt within a few hundred steps;
they say nothing about speech in the world. Voices of train, dev and test are disjoint wherever the official ones are.

    task     folder under the root            voices     minutes   what is said
    pr, asr  LibriSpeech                      44/10/14   10/2/4    sentences of 6 to 8 words out of 29
    pretrain   train-clean-360                44         33        sentences of 5 to 25 words out of 260
    ks       speech_commands_v0.01            44/10      25        30 words, one second each, and noise
             speech_commands_test_set_v0.01   14         14        12 classes, 70 clips of each but 84 of _unknown_
    qbe      quesst14Database                 44+10+12   6         22 phrases, 60 recordings with two of them each
    sid, sv  VoxCeleb1                        16 and 8   28        sentences, in five "videos" a speaker
    sd       diarization                      38/7/10    14        two speakers in turns, with silence and overlap
    ic       fluent_speech_commands_dataset   44/10/14   30        14 intents, two wordings of each
    sf       SNIPS                            8/4/4      20        requests of 3 intents with 6 slots
    er       IEMOCAP                          5 x 2      11        sentences in 4 emotions, made of prosody alone

The layouts are those of the official corpora (`superb/layout.py` lists what is read of each), but for three things: no
wav.scp in `diarization`, whose absolute paths would tie the folder to its place; the lists that otherwise come from a
clone of s3prl lie in the corpora's folders (librispeech-lexicon.txt, veri_test_class.txt, voxceleb1_test_v2.txt,
meta_data); and LibriSpeech/alignments/SPLIT.tsv says which phone is spoken when (utterance, phone, start, end).
"""

from .building import STAMP, build
from .catalogue import CORPORA

__all__ = ["CORPORA", "STAMP", "build"]
