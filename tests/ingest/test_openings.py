"""What comes before the first record of a text file, and how the separator is detected."""

import pytest

from core.errors import UserError

COLUMNS = {"session_id": "s", "item_id": "i", "timestamp": "t"}
ROWS = [(n, f"x{n}", 1569931200 + n) for n in range(30)]


def items(result):
    return [row["item_id"] for row in result.rows]


def table(separator: str, header: bool = True) -> str:
    lines = ["s" + separator + "i" + separator + "t"] if header else []
    lines += [separator.join(map(str, row)) for row in ROWS]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("block", [64, 100_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "opening",
    [
        "sep=;\n",
        '"SEP=;"\n',
        "# exported 2021-01-01; by someone, from s\n",
        "#\n# a; b; c; d\n#" + "x" * 300 + "\n",
        "\n \n",
        "\ufeffsep=;\n\n# note\n",
    ],
)
def test_lines_before_the_header_are_none_of_the_log(run, write, opening, block, end):
    path = write("a.csv", (opening + table(";")).replace("\n", end))
    result = run("sessions", path, columns=COLUMNS, block_bytes=block, max_bad_fraction=0)
    assert items(result) == [row[1] for row in ROWS]


@pytest.mark.parametrize("separator", ["~", "^", "*"])
def test_excel_s_line_names_the_separator(run, write, separator):
    path = write("a.csv", f"sep={separator}\n" + table(separator))
    assert items(run("sessions", path, columns=COLUMNS)) == [row[1] for row in ROWS]


@pytest.mark.parametrize("mark", ["#", "# "])
def test_a_header_behind_a_mark(run, write, mark):
    path = write("a.tsv", "# written by hand\n" + mark + table("\t"))
    assert items(run("sessions", path, columns=COLUMNS)) == [row[1] for row in ROWS]
    path = write("b.tsv", "#" + table("\t"))
    assert items(run("sessions", path, columns={**COLUMNS, "session_id": "#s"})) == items(
        run("sessions", path, columns=COLUMNS)
    )


def test_notes_without_a_header(run, write):
    text = "# notes\n" + table(",", header=False).replace("\n5,", "\n# a row\n5,")
    result = run("sessions", write("a.csv", text), columns=COLUMNS, column_names=["s", "i", "t"])
    assert items(result) == [row[1] for row in ROWS]
    assert [line for line, _ in result.reasons] == [7]


def test_line_numbers_count_what_comes_before(run, write):
    text = "sep=,\n# note\n" + table(",") + "1,2\n"
    result = run("sessions", write("a.csv", text), columns=COLUMNS)
    assert [line for line, _ in result.reasons] == [34]
    assert result.manifest["rows_read"] == 31


@pytest.mark.parametrize("names", [["s", "i", "t"], ["s", "i", "t", "p"]])
def test_a_decimal_comma_does_not_hide_the_semicolon(run, write, names):
    rows = [[str(n), f"{n},5", str(1569931200 + n), f"{n},25"][: len(names)] for n in range(20)]
    text = "\n".join(";".join(row) for row in rows) + "\n"
    result = run("sessions", write("a.csv", text), columns=COLUMNS, column_names=names)
    assert items(result) == [f"{n},5" for n in range(20)]
    result = run("sessions", write("a.csv", ";".join(names) + "\n" + text), columns=COLUMNS)
    assert items(result) == [f"{n},5" for n in range(20)]


def test_two_columns_with_decimal_commas(run, write):
    tree = {"columns": {"labels": ["c"], "categorical": ["x"]}, "column_names": ["c", "x"]}
    result = run("ranking", write("a.csv", "1;2,5\n0;3,5\n"), **tree)
    assert [row["x"] for row in result.rows] == ["2,5", "3,5"]


def test_columns_in_another_order_in_each_file(run, write):
    write("a.csv", "s,i,t\n1,x,1569931200\n")
    write("b.csv", "t;s;i\n1569931201;2;y\n")
    folder = write("c.tsv", "i\tnote\tt\ts\nz\tn\t1569931202\t3\n").parent
    result = run("sessions", folder, columns=COLUMNS, max_bad_fraction=0)
    assert [(row["session_id"], row["item_id"]) for row in result.rows] == [
        (1, "x"),
        (2, "y"),
        (3, "z"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('s,i,"t\n1,2,3\n', "header row has a quote that is not closed"),
        ("s,i,t" + "x" * 200 + "\n1,2,1569931200\n", "header row is longer than 64 bytes"),
        ("# only notes\n", "no line could be read"),
        ("", "no line could be read"),
    ],
)
def test_an_opening_that_cannot_be_read(run, write, text, message):
    with pytest.raises(UserError, match=message):
        run("sessions", write("a.csv", text), columns=COLUMNS, max_line_bytes=64, block_bytes=64)
