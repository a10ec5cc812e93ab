from ray_distill.columns import columns, table


def test_columns_are_aligned_and_lines_end_without_blanks():
    rows = [("a", "1", "left"), ("long", "200", ""), ("b", "", "x")]
    assert columns(rows, "<><") == "a       1  left\nlong  200\nb          x"
    assert columns(rows) == "a     1    left\nlong  200\nb          x"
    assert columns([]) == columns([], "<>") == ""


def test_a_cell_that_is_too_long_pushes_its_own_line_alone():
    rows = [("key", "a value of many words", "file"), ("k", "v", "default")]
    assert columns(rows, widest=4) == "key  a value of many words  file\nk    v     default"


def test_a_table_has_a_rule_as_wide_as_each_column():
    text = table(["GiB", "M", "sum"], [["student", "1.25", "3"], ["teacher", "", "12"]])
    assert text.splitlines() == [
        "GiB         M  sum",
        "-------  ----  ---",
        "student  1.25    3",
        "teacher         12",
    ]
    assert table(["a", ""], [["1", "done"]], "><").splitlines()[1] == "-  ----"
