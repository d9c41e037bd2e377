"""Text of unknown origin: what is read, and what is refused before it is built."""

from __future__ import annotations

import time

import pytest

from pruned_upstream.parsing import MAX_DEPTH, parse_json, printable, read_lines, read_yaml, shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested"),
        ("9" * 6000, "64 bits"),
        (str(1 << 63), "64 bits"),
        ("{", "."),
    ],
)
def test_json_that_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_that_is_read():
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep) and parse_json(f'{{"a": {(1 << 63) - 1}}}') == {"a": (1 << 63) - 1}


BOMB = ["a: &a [x,x,x,x,x,x,x,x,x]"] + [
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)
]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(BOMB), "aliases stand for"),
        ("a: &a [*a]", "contains itself"),
        ("a: [1, 2", "line 1"),
        ("[" * 3000, "nested"),
        ("a: 2001-99-99", "^line 1, column 4: this is no timestamp; if it is meant as text, put it in quotes"),
        ("\xff", "UTF-8"),
        (f"a: {'9' * 5000}", "line 1 holds an integer of 5000 digits"),
        (f"a:\n- -0x{'f' * 5000}", "line 2 holds an integer of 5003 digits"),
        (f"{'1' * 50}: a", "line 1 holds an integer"),
        (f"a: 1{':59' * 3000}", "line 1 holds an integer"),
        ("a: 1\nb: {c: 2}\na: 3", "line 3 gives a key a second time"),
        ("a: 1\nb: {c: 2, c: 2}", "line 2 gives a key a second time"),
    ],
)
def test_yaml_that_is_refused(text, reason, tmp_path):
    (tmp_path / "a.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=reason):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("!!timestamp foo", "timestamp"),
        ('!!timestamp ""', "timestamp"),
        ("!!timestamp 2024-02-30", "timestamp"),
        ('!!int ""', "int"),
        ("!!int 1.5", "int"),
        ("!!int 0x", "int"),
        ("!!float x", "float"),
        ('!!float ""', "float"),
        ("!!bool maybe", "bool"),
        ('!!binary "a"', "binary"),
        ("!!binary \xe9", "binary"),
        ("!!map a", "map"),
        ("!!seq a", "seq"),
        ("!!set a", "set"),
        ("2024-02-30", "timestamp"),
        ("2024-01-01 25:00:00", "timestamp"),
        ("0b_", "int"),
    ],
)
def test_a_value_that_is_none_of_its_kind_is_answered_in_our_words(value, kind, tmp_path):
    (tmp_path / "a.yaml").write_text(f"b: [1]\nkey:\n  - {value}\n", encoding="utf-8")
    with pytest.raises(ValueError) as refused:
        read_yaml(tmp_path / "a.yaml")
    assert str(refused.value).startswith(f"line 3, column 5: this is no {kind}; "), refused.value


@pytest.mark.parametrize("value", ["!secret hunter2", "!!python/name:os.system ''", "!secret [1]", "!secret {a: 1}"])
def test_a_foreign_tag_is_refused_and_not_quoted(value, tmp_path):
    (tmp_path / "a.yaml").write_text(f"a: {value}\n")
    with pytest.raises(ValueError, match="^line 1, column 4: the tag here is none of YAML's own$"):
        read_yaml(tmp_path / "a.yaml")


def test_values_with_tags_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text('a: !!str 1\nb: !!float 2\nc: !!int "3"\nd: ! x\ne: !!binary aGk=\n')
    assert read_yaml(tmp_path / "a.yaml") == {"a": "1", "b": 2.0, "c": 3, "d": "x", "e": b"hi"}


@pytest.mark.parametrize("text", ["{" * 100_000, "[" * 900_000, "[" + "a," * 450_000, "a: '" + "b\n" * 450_000])
def test_yaml_that_would_keep_its_reader_busy_is_refused_soon(text, tmp_path):
    """Depth cost quadratic time: ten seconds for 100,000 braces."""
    (tmp_path / "a.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ValueError, match=r"nested|values|line"):
        read_yaml(tmp_path / "a.yaml")
    assert time.process_time() - start < 8


def test_a_fault_does_not_quote_the_file(tmp_path):
    (tmp_path / "a.yaml").write_text("password: hunter2: x\n")
    with pytest.raises(ValueError, match="line 1") as refused:
        read_yaml(tmp_path / "a.yaml")
    assert "hunter2" not in str(refused.value)


def test_nothing_steers_the_terminal():
    assert printable("a\x1b[31m\ud800\n") == "a\\x1b[31m\\ud800\n"
    assert len(shown("a" * 10_000)) < 100


def test_lines_of_a_corpus_end_where_a_file_s_lines_end(tmp_path):
    """UTF-8 taken for Latin-1 and written again, as in transcripts that were collected, holds U+0085 and its like."""
    lines = ["CAF\u00c3\u0085 \u2028 \u000b \u001c END", "", "last"]
    (tmp_path / "list").write_text("\r\n".join(lines) + "\n", encoding="utf-8", newline="")
    with open(tmp_path / "list", encoding="utf-8") as file:
        assert read_lines(tmp_path / "list") == [line.rstrip("\n") for line in file] == lines
    (tmp_path / "empty").touch()
    assert read_lines(tmp_path / "empty") == []
