import codecs
import io

import pytest

from ray_distill.plaintext import NotText, blank, json_of, lines_of, read_text, text_of

TEXT = "un café\na child’s kite\n赤い凧 🪁"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_names_the_encoding_and_goes(encoding):
    content = TEXT.encode(encoding)
    assert text_of(content) == TEXT
    assert list(lines_of(io.BytesIO(content))) == [(line, "") for line in TEXT.split("\n")]


@pytest.mark.parametrize(("mark", "encoding"), [(codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")])
def test_the_other_order_of_bytes(mark, encoding):
    assert text_of(mark + TEXT.encode(encoding)) == TEXT


def test_a_mark_at_a_seam_goes():
    """As in a file that `cat` put together from two."""
    both = "one\n".encode("utf-8-sig") + "two\n".encode("utf-8-sig")
    assert [text for text, _ in lines_of(io.BytesIO(both))] == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "encoding", "reason"),
    [
        ("un café".encode("latin-1"), "utf-8", "not UTF-8 (byte 0xe9)"),
        ("“red”".encode("cp1252"), "utf-8", "not UTF-8 (byte 0x93)"),
        (b"a\0b", "utf-8", "NUL characters"),
        (b"\xed\xa0\x80", "utf-8", "not UTF-8 (byte 0xed)"),  # half a character, in no UTF
        ("\ud800".encode("utf-16-le", "surrogatepass"), "utf-16", "not UTF-16-LE (byte 0x00)"),
        (b"\xff\xff\xff\xff", "utf-32", "not UTF-32-LE (byte 0xff)"),
    ],
)
def test_a_line_that_is_no_text_costs_itself(line, encoding, reason):
    start, end = "good\n".encode(encoding), "\n".encode(encoding.replace("16", "16-le").replace("32", "32-le"))
    content = start + line + end + end
    found = list(lines_of(io.BytesIO(content)))
    assert found[0] == ("good", "") and reason in found[1][1] and found[2] == ("", "")
    with pytest.raises(NotText, match=r"line 2: not "):
        text_of(content)


def test_utf_16_without_a_mark_is_refused():
    """All of it is UTF-8, too, with a NUL behind each letter."""
    with pytest.raises(NotText, match="as UTF-16 without a byte order mark does"):
        text_of("a red kite".encode("utf-16-le"))


def test_lines_end_as_on_all_systems_and_nowhere_else():
    text = "a\r\nb\rc\nd \u2028 e\x85f\x0cg\n"
    assert [line for line, _ in lines_of(io.BytesIO(text.encode()))] == ["a", "b", "c", "d \u2028 e\x85f\x0cg"]


def test_half_a_unit_at_the_end(tmp_path):
    (tmp_path / "cut.txt").write_bytes("a kite".encode("utf-16")[:-1])
    with pytest.raises(NotText, match=r"cut.txt: not UTF-16-LE"):
        read_text(tmp_path / "cut.txt")


@pytest.mark.parametrize("text", ["", " \n\t", "\u00a0\u3000", "\u200b\ufeff", "\x07\x1b", "\U000e0020"])
def test_nothing_that_is_seen_is_blank(text):
    assert blank(text)


@pytest.mark.parametrize("text", ["a", "凧", "🪁", "\u200b.", "-", "é"])
def test_what_is_seen_is_not(text):
    assert not blank(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "", "9" * 5000])
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError, match="not valid JSON"):
        json_of(text)
