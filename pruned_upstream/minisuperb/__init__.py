"""Self-made miniature corpora in the official layouts of the ten SUPERB tasks.

Every word is spoken by espeak-ng, so the corpora are real words by several voices, with true phones, intents and slots,
and the same bytes on every run. They exercise each reader and each metric and can be learnt within a few hundred steps;
they say nothing about speech in the world. Layout under the root, which is also what the benchmark expects of the
official corpora (a star marks what stands in for a list that the official data set or an s3prl clone brings):

    task     folder under ROOT                files
    pr, asr  LibriSpeech                      {train-clean-100,dev-clean,test-clean}/SPK/CHAP/SPK-CHAP-NNNN.flac, SPK-CHAP.trans.txt;
                                              train-clean-360 is the demo teacher's unlabelled speech;
                                              *librispeech-lexicon.txt (WORD P1 P2 ..., ARPAbet with stress);
                                              *alignments/SPLIT.tsv (utterance, phone, start, end in seconds)
    ks       speech_commands_v0.01            WORD/SPK_nohash_N.wav, _background_noise_/*.wav
             speech_commands_test_set_v0.01   the 12 classes, WORD/SPK_nohash_N.wav
    qbe      quesst14Database                 Audio/, dev_queries/, eval_queries/, scoring/language_key_{utterances,dev,eval}.lst,
                                              scoring/groundtruth_quesst14_{dev,eval}/quesst14_{dev,eval}.{rttm,tlist.xml}, quesst14.ecf.xml
    sid, sv  VoxCeleb1                        {dev,test}/wav/idNNNNN/VIDEO/NNNNN.wav (test: ids from 10270);
                                              *veri_test_class.txt (1, 2, 3 = train, dev, test of SID), *voxceleb1_test_v2.txt (trials)
    sd       diarization                      {train,dev,test}/{wav/REC.wav,segments,utt2spk,spk2utt,reco2dur,rttm};
                                              no wav.scp, which would hold absolute paths: s3prl then lists wav/
    ic       fluent_speech_commands_dataset   data/{train,valid,test}_data.csv, wavs/speakers/SPK/*.wav
    sf       SNIPS                            {train,valid,test}/SPK-snips-SPLIT-N.wav, all.iob.snips.txt, slots.txt
    er       IEMOCAP                          SessionN/sentences/wav/DIALOG/*.wav, SessionN/dialog/EmoEvaluation/DIALOG.txt,
                                              *meta_data/SessionN/{train,test}_meta_data.json
"""

from .building import STAMP, build
from .catalogue import CORPORA

__all__ = ["CORPORA", "STAMP", "build"]
