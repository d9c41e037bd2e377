"""What `pip install s3prl` leaves out and the ten tasks need; a clone of s3prl has it, and is preferred where given.

ctc_corpus      stands in for the package `s3prl.downstream.ctc.corpus`: readers of PR's and SF's corpora
vocabularies    symbols of PR, SF and ASR in the order of s3prl's vocabulary files, so that checkpoints fit both
librispeech     the csv files of PR (transcripts) and ASR (lengths, for bucketing), and PR's lexicon
libri2mix       kaldi folders of SD from LibriMix's metadata
"""
