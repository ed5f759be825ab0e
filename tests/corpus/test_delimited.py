"""CSV and TSV: no quotation mark joins or drops records unsaid, and properly quoted ones stay as they are."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus, embedding
from akidb_mlx.corpus.delimited import open_delimited, read_delimited
from akidb_mlx.corpus.parts import Parts
from akidb_mlx.corpus.sources import Source
from akidb_mlx.errors import InputError
from support.checkpoints import PROMPTS


def read(path, content):
    """Fields of the records, or the reason of a reject."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = Source(path.name, path, 0, 0)
    with open_delimited(source) as stream:
        return [record.reason or record.fields for record in read_delimited(stream, source)]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lines", "records"),
    [
        (['1\t"Hello', "2\tb"], [["1", '"Hello'], ["2", "b"]]),
        (['1\t"Hello" she said', "2\tb"], [["1", '"Hello" she said'], ["2", "b"]]),
        (['1\t"a', '2\t"b', "3\tc"], [["1", '"a'], ["2", '"b'], ["3", "c"]]),
        (['1\t"a ""b"" c"', "2\tb"], [["1", 'a "b" c'], ["2", "b"]]),
        (['1\t""', '2\t"""x"""', '3\t""x'], [["1", ""], ["2", '"x"'], ["3", '""x']]),
        (['1\ta "b" c', '2\tb"'], [["1", 'a "b" c'], ["2", 'b"']]),
        (['1\t"a\tb"', "2\tb"], [["1", "a\tb"], ["2", "b"]]),
        (['"1"\t"x"', '"2\t"y"'], [["1", "x"], ['"2', "y"]]),
    ],
)
def test_in_tsv_a_mark_quotes_a_field_only_if_it_is_closed_properly(tmp_path, lines, records, newline):
    assert read(tmp_path / "a.tsv", newline.join(["id\ttext", *lines, ""]))[1:] == records
    assert read(tmp_path / "a.tsv", newline.join(["id\ttext", *lines]))[1:] == records


def test_line_breaks_within_a_properly_quoted_field_of_tsv_stay(tmp_path):
    rows = [
        ["id", "text"],
        ["1", 'two\nlines "quoted"'],
        ["2", "a\r\nb\n\n"],
        ["3", "if x:\n\treturn y"],
        ["4", "last"],
    ]
    with (tmp_path / "w.tsv").open("w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows(rows)
    assert read(tmp_path / "w.tsv", (tmp_path / "w.tsv").read_bytes()) == rows
    assert read(tmp_path / "one.tsv", 'text\n"a\nb"\nc\n') == [["text"], ["a\nb"], ["c"]]


def test_a_mark_at_either_end_of_lines_that_are_records_is_no_guess(tmp_path):
    got = read(tmp_path / "a.tsv", 'id\ttext\n1\t"He said\n2\tshe said"\n3\tc\n')
    assert [isinstance(record, str) for record in got] == [False, True, True, False]
    assert "lines 2 to 3" in got[1]


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ('id,text\n1,"a, ""b""\nc"\n2,d\n', [["1", 'a, "b"\nc'], ["2", "d"]]),
        ('id,text\n1,a "b" c\n2,d\n', [["1", 'a "b" c'], ["2", "d"]]),
        ('id,text\n1,"a" b\n2,d\n', ["line 2: text behind", ["2", "d"]]),
        ('id,text\n1,"never closed\n2,b\n3,c\n', ["line 2: a quotation mark opens", ["2", "b"], ["3", "c"]]),
        ('id,text\n1,"never closed\n2,"b"\n3,c\n', ["line 2: a quotation mark opens", ["2", "b"], ["3", "c"]]),
        ('id,text\n1,"a\n2,"b\n3,c', ["line 2: a", "line 3: a", ["3", "c"]]),
        ('id,text\n1,a\n\n2,"b', [["1", "a"], [], "line 4: text behind a closing quotation mark, or none"]),
        ('text\n"a\nb" c\nd\n', ["line 2: a quotation mark opens", ["d"]]),
    ],
)
def test_in_csv_what_is_not_closed_properly_is_a_reject_with_its_line(tmp_path, content, records):
    got = read(tmp_path / "a.csv", content)[1:]
    assert len(got) == len(records)
    for record, expected in zip(got, records, strict=True):
        assert record == expected or (isinstance(record, str) and record.startswith(expected)), got


def test_a_broken_header_is_an_error(tiny, tmp_path):
    (tmp_path / "a.csv").write_text('id,"text\n1,a\n')
    with pytest.raises(InputError, match=r"cannot read .*a\.csv: .*line 1"):
        embed_corpus([tmp_path / "a.csv"], tmp_path / "out.parquet", tiny)


def test_rejects_have_the_line_and_a_run_that_goes_on_counts_the_same(tiny, tmp_path, monkeypatch):
    body = "".join(f'{i},"row {i}\nof two lines"\n' if i % 7 else f'{i},"row {i}\n' for i in range(1, 100))
    (tmp_path / "a.csv").write_text("id,text\n" + body)
    summary = embed_corpus([tmp_path / "a.csv"], tmp_path / "whole.parquet", tiny)
    assert (summary.rows, summary.rejected) == (85, 14)
    whole = pq.read_table(tmp_path / "whole.parquet").drop_columns("embedding")
    assert whole["text"].to_pylist()[6] == "row 8\nof two lines"
    rejects = [json.loads(line) for line in (tmp_path / "whole.parquet.rejects.jsonl").read_text().splitlines()]
    assert rejects[0]["reason"] == "line 14: a quotation mark opens a field that is not closed properly"
    assert rejects[0]["text"] == '7,"row 7'
    monkeypatch.setattr(embedding, "_PART_BYTES", 30_000)
    real = Parts.add
    for limit in (1, 3, 5, 20):

        def interrupted(parts, *args, limit=limit):
            real(parts, *args)
            if len(parts.facts) == limit:
                raise KeyboardInterrupt

        monkeypatch.setattr(Parts, "add", interrupted)
        try:
            embed_corpus([tmp_path / "a.csv"], tmp_path / "out.parquet", tiny)
        except KeyboardInterrupt:
            continue
    monkeypatch.setattr(Parts, "add", real)
    embed_corpus([tmp_path / "a.csv"], tmp_path / "out.parquet", tiny)
    assert pq.read_table(tmp_path / "out.parquet").drop_columns("embedding").equals(whole)
    names = [tmp_path / f"{name}.parquet.rejects.jsonl" for name in ("out", "whole")]
    assert names[0].read_bytes() == names[1].read_bytes()


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ("id;text\n1;a, b\n2;1,5\n", [["id", "text"], ["1", "a, b"], ["2", "1,5"]]),
        ('"id, or n";text\n1;"a; ""b"""\n', [["id, or n", "text"], ["1", 'a; "b"']]),
        ("id,text;more\n1,a;b\n", [["id", "text;more"], ["1", "a;b"]]),
        ("text\na;b\n", [["text"], ["a;b"]]),
        ('"text;more"\na;b\n', [["text;more"], ["a;b"]]),
        ('\ufeff"id";"text"\r\n1;a\r\n', [["id", "text"], ["1", "a"]]),
        ("", []),
    ],
)
def test_a_header_of_semicolons_alone_is_cut_at_them(tmp_path, content, records):
    assert read(tmp_path / "a.csv", content) == records


def test_empty_cells_are_counted(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("id;text\n1;tea\n2;\n3;  \n4;coffee\n", encoding="utf-8")
    out = tmp_path / "a.parquet"
    with Embedder.load(PROMPTS) as embedder:
        summary = embed_corpus([tmp_path / "a.csv"], out, embedder)
        assert (summary.rows, summary.empty) == (4, 2) and ": 4 rows, 2 with an empty text, " in str(summary)
        assert pq.read_table(out)["text"].to_pylist() == ["tea", "", "  ", "coffee"]
        again = embed_corpus([tmp_path / "a.csv"], out, embedder)
        assert "is finished: 4 rows, 2 with an empty text; nothing to do" in str(again)
