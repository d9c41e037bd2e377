import pytest

from pruned_upstream.miniature.phones import align, arpabet
from pruned_upstream.miniature.voice import Segment
from pruned_upstream.s3prl_plugin.parts.vocabularies import PHONEMES


@pytest.mark.parametrize(
    ("mnemonic", "expected"),
    [("b", ("B",)), ("tS", ("CH",)), ("'aI", ("AY1",)), (",oU", ("OW2",)), ("@2", ("AH0",)), ("@L", ("AH0", "L")),
     ("'e@", ("EH1", "AH0")), ("_:", ("SIL",)), (";", ()), ("r-", ("R",))],
)  # fmt: skip
def test_arpabet(mnemonic: str, expected: tuple[str, ...]) -> None:
    assert arpabet(mnemonic) == expected
    assert set(expected) <= set(PHONEMES)


def test_a_foreign_sound_is_an_error() -> None:
    with pytest.raises(KeyError):
        arpabet("A~")


def test_align_shares_lengthens_and_joins() -> None:
    phones = [Segment("_:", 0.0, 0.1), Segment("_", 0.1, 0.2), Segment("'e@", 0.2, 0.4), Segment(";", 0.4, 0.45)]
    assert [(s.label, s.start, pytest.approx(s.end)) for s in align(phones)] == [
        ("SIL", 0.0, 0.2),
        ("EH1", 0.2, 0.3),
        ("AH0", pytest.approx(0.3), 0.45),
    ]
