"""From espeak-ng's phone mnemonics to ARPAbet with stress, the phone set of SUPERB's phoneme recognition.

The voices speak Received Pronunciation, which has sounds that ARPAbet lacks: centring diphthongs become two phones that
share the time equally, the vowel of "lot" becomes AA. Phone set: s3prl/s3prl, s3prl/downstream/ctc/vocab/phoneme.txt;
mnemonics: espeak-ng/espeak-ng, docs/phonemes.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from .voice import Segment

SILENCE = "SIL"

_CONSONANTS = {
    **{phone: phone.upper() for phone in "bdfgklmnprstvwz"},
    "h": "HH", "j": "Y", "N": "NG", "S": "SH", "Z": "ZH", "T": "TH", "D": "DH", "tS": "CH", "dZ": "JH", "r-": "R",
}  # fmt: skip
# Vowels that are never stressed stand as they are; the digit of the others' first phone is the stress.
_REDUCED = {"@": "AH", "@2": "AH", "@5": "AH", "@-": "AH", "a#": "AH", "3": "AH", "i": "IY", "I2": "IH"}
_VOWELS = {
    "a": ("AE",), "aa": ("AA",), "A:": ("AA",), "A@": ("AA",), "0": ("AA",), "O:": ("AO",), "O@": ("AO",),
    "E": ("EH",), "I": ("IH",), "i:": ("IY",), "U": ("UH",), "u:": ("UW",), "V": ("AH",), "3:": ("ER",),
    "eI": ("EY",), "aI": ("AY",), "OI": ("OY",), "aU": ("AW",), "oU": ("OW",),
    "i@": ("IY", "AH0"), "i@3": ("IY", "AH0"), "e@": ("EH", "AH0"), "U@": ("UH", "AH0"), "aI@": ("AY", "AH0"),
    "@L": ("AH", "L"),
    **{mnemonic: (phone,) for mnemonic, phone in _REDUCED.items()},
}  # fmt: skip
_STRESS = {"'": "1", ",": "2"}
# A palatal off-glide, which ARPAbet does not write.
_IGNORED = {";"}


def arpabet(mnemonic: str) -> tuple[str, ...]:
    """The ARPAbet phones of one mnemonic (stress mark first), SIL for pauses, nothing for what ARPAbet does not write.

    >>> arpabet("'eI"), arpabet("tS"), arpabet("_:")
    (('EY1',), ('CH',), ('SIL',))

    Raises:
        KeyError: a mnemonic of another language, or of a sound that English lends from one (loch, croissant).
    """
    if is_pause(mnemonic):
        return (SILENCE,)
    if mnemonic in _IGNORED:
        return ()
    if mnemonic in _CONSONANTS:
        return (_CONSONANTS[mnemonic],)
    stress = _STRESS.get(mnemonic[0], "0")
    first, *rest = _VOWELS[mnemonic[1:] if mnemonic[0] in _STRESS else mnemonic]
    return (first + stress, *rest)


def is_pause(label: str) -> bool:
    """Whether a mnemonic or an ARPAbet symbol stands for silence."""
    return label.startswith("_") or label == SILENCE


def align(phones: Iterable[Segment]) -> list[Segment]:
    """ARPAbet segments without gaps, pauses joined.

    Phones of one mnemonic share its time; a sound that is not written lengthens the phone before it.
    """
    aligned: list[Segment] = []
    for phone in phones:
        labels = arpabet(phone.label)
        if not labels and aligned:
            aligned[-1] = Segment(aligned[-1].label, aligned[-1].start, phone.end)
        step = (phone.end - phone.start) / max(1, len(labels))
        for i, label in enumerate(labels):
            segment = Segment(label, phone.start + i * step, phone.start + (i + 1) * step)
            if label == SILENCE and aligned and aligned[-1].label == SILENCE:
                segment = Segment(SILENCE, aligned.pop().start, segment.end)
            aligned.append(segment)
    return aligned
