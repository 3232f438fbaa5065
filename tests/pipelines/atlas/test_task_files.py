"""Tasks in files: the layouts of GLUE, one's own files, and what is wrong with a file, said with its row."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybrid.errors import BadData, CannotRun, HybridError, UsageError
from pipelines.atlas.task_data import Row
from pipelines.atlas.task_files import read, task_name

SST2 = 'sentence\tlabel\na "fine" film\t1\nso dull it hurts\t0\na fine  day\t1\nso dull it hurts\t0\nthe worst\t0\n'
COLA = "gj04\t1\t\tThe sailors rode the breeze.\ngj04\t0\t*\tThe sailors rode breeze the.\n"
MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t7\t8\tHe said "no.\tNo, he said.\n'
    "0\t9\t3\tA man ran.\tIt rained.\n"
)
RTE = (
    "index\tsentence1\tsentence2\tlabel\n"
    "0\tIt rained all day.\tIt was wet.\tentailment\n"
    "1\tIt rained.\tHe ran.\tnot_entailment\n"
)
QNLI = "index\tquestion\tsentence\tlabel\n" + "".join(
    f"{n}\tWho was number {n // 2}?\t{'He' if n % 2 else 'It'} was {n}.\t{'not_' * (n % 2)}entailment\n"
    for n in range(60)
)


def folder(tmp_path: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    return str(tmp_path)


def test_rows_that_stand_twice_or_in_the_dev_set_are_not_trained_on(tmp_path: Path) -> None:
    data = folder(tmp_path, {"sst2_train.tsv": SST2, "sst2_dev.tsv": "label\tcontent\n0\tthe worst\n1\tthe best\n"})
    task = read("sst2", data)
    assert sorted(task.train) == [
        Row('a "fine" film', None, 1),
        Row("a fine  day", None, 1),
        Row("so dull it hurts", None, 0),
    ]
    assert sorted(task.dev) == [Row("the best", None, 1), Row("the worst", None, 0)]
    assert (task.duplicates, task.overlaps, task.labels, task.metric) == (1, 1, ("negative", "positive"), "accuracy")
    assert task.source == "sst2_train.tsv, 5 rows; sst2_dev.tsv, 2 rows; GLUE has 67,349 to train on"
    assert sorted(read("sst2", data, train=2, dev=1).train) < sorted(task.train)
    assert len(read("sst2", data, train=2, dev=1).dev) == 1


def test_the_layouts_of_glue_are_read(tmp_path: Path) -> None:
    files = {"cola_train.tsv": COLA, "cola_dev.tsv": COLA.replace("sailors", "pilots"), "SST-2/train.tsv": SST2}
    files |= {
        "MRPC/msr_paraphrase_train.txt": MRPC,
        "MRPC/msr_paraphrase_test.txt": MRPC.replace(" ran", " walked").replace("No,", "Nope,"),
    }
    files |= {"RTE/train.tsv": RTE.replace("\n", "\r\n"), "RTE/dev.tsv": RTE.replace("rained", "snowed")}
    data = folder(tmp_path, files)
    assert sorted(read("cola", data).train)[1] == Row("The sailors rode the breeze.", None, 1)
    mrpc = read("mrpc", data)
    assert Row('He said "no.', "No, he said.", 1) in mrpc.train
    assert mrpc.metric == "f1"
    assert Row("It snowed.", "He ran.", 1) in read("rte", data).dev


HUB = {
    "mrpc": (MRPC, (3, 4, 0)),
    "cola": ("a\tb\tc\td\n" + COLA, (3, 1)),
    "qnli": (QNLI, (1, 2, 3)),
    "rte": (RTE, (1, 2, 3)),
}
"""GLUE's own files with a first row of names, and the columns that the hub has of them, in its order."""
HUB_NAMES = {"cola": ("sentence", "label"), "qnli": ("question", "sentence", "label")}
NUMBERS = {"entailment": "0", "not_entailment": "1"}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("name", HUB)
def test_tables_of_the_hub_hold_the_same_rows_as_glues_own_files(name: str, ending: str, tmp_path: Path) -> None:
    text, places = HUB[name]
    cells = [line.split("\t") for line in text.splitlines()[1:]]
    columns = (*HUB_NAMES.get(name, ("sentence1", "sentence2", "label")), "idx")
    rows = [
        [*(NUMBERS.get(row[place], row[place]) for place in places), str(number)] for number, row in enumerate(cells)
    ]
    if ending == "csv":
        written = io.StringIO()
        csv.writer(written).writerows([columns, *rows])
        hub = written.getvalue()
    else:
        made = [dict(zip(columns, row, strict=True)) for row in rows]
        hub = "".join(json.dumps({**one, "label": int(one["label"]), "idx": int(one["idx"])}) + "\n" for one in made)
    own = text.partition("\n")[2] if name == "cola" else text
    mine, theirs = (
        folder(
            tmp_path / place,
            {train: table, dev: table.replace(".", "!")},
        )
        for place, train, dev, table in (
            ("own", f"{name.upper()}/train.tsv", f"{name.upper()}/dev.tsv", own),
            ("hub", f"{name}_train.{ending}", f"{name}_validation.{ending}", hub),
        )
    )
    assert read(name, theirs).to_json() | {"source": ""} == read(name, mine).to_json() | {"source": ""}


def test_rows_that_all_stand_in_the_dev_set_are_no_task(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="rte: no row to train on") as told:
        read("rte", folder(tmp_path, {"rte_train.tsv": RTE, "rte_dev.tsv": RTE}))
    assert told.value.hint == "name another train file: all its rows (2) stand in the dev set"


def test_of_mrpcs_train_files_the_one_without_the_dev_set_is_read(tmp_path: Path) -> None:
    files = {
        "train.tsv": MRPC,
        "msr_paraphrase_train.txt": MRPC,
        "dev.tsv": MRPC.replace(".", "!"),
        "dev_ids.tsv": "7\t8\n",
    }
    data = folder(tmp_path, {f"MRPC/{name}": text for name, text in files.items()})
    assert read("mrpc", data).source == "train.tsv, 2 rows; dev.tsv, 2 rows; GLUE has 3,668 to train on"


def test_train_and_dev_files_are_of_one_data_set_where_two_lie_about(tmp_path: Path) -> None:
    files = {"rte_train.tsv": RTE, "rte_dev.tsv": RTE.replace("rained", "snowed"), "RTE/train.tsv": RTE}
    assert read("rte", folder(tmp_path, files)).source.startswith("rte_train.tsv, 2 rows; rte_dev.tsv, 2 rows")


def test_of_mrpcs_test_files_the_labelled_one_is_read(tmp_path: Path) -> None:
    files = {
        "msr_paraphrase_train.txt": MRPC,
        "msr_paraphrase_test.txt": MRPC.replace(".", "!"),
        "test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tHe ran.\tIt ran.\n",
    }
    data = folder(tmp_path, {f"MRPC/{name}": text for name, text in files.items()})
    assert "msr_paraphrase_test.txt, 2 rows" in read("mrpc", data).source


def test_of_a_dev_set_alone_a_fifth_of_the_questions_is_the_dev_set(tmp_path: Path) -> None:
    task = read("qnli", folder(tmp_path, {"qnli_dev.tsv": QNLI}))
    questions = [{row.text for row in part} for part in (task.train, task.dev)]
    assert len(task.train) + len(task.dev) == 60
    assert 0 < len(task.dev) < 30
    assert not questions[0] & questions[1]
    assert task.source == "qnli_dev.tsv, 60 rows; a fifth of its texts, by hash, are the dev set"


LINES = '{"text": "good", "label": true, "id": 1}\n{"text": "bad", "label": false}\n\n{"text": "ok", "label": 1.0}\n'


def test_files_of_ones_own_are_read_by_their_columns(tmp_path: Path) -> None:
    stars = 'Stars;Review\n5;"fine; really"\n1;"dull\nand long"\n10;great\n'
    files = {
        "a/reviews.csv": stars,
        "a/train.jsonl": LINES,
        "a/dev.jsonl": LINES.replace('"bad"', '"worse"').replace('"good"', '"better"'),
    }
    data = folder(
        tmp_path, {**files, "spread_train.csv": "a,b,c\nx,y,no\nz,w,yes\n", "spread_dev.csv": "a,b,c\nq,r,no\n"}
    )
    lines = read(f"{data}/a")
    assert (lines.name, lines.labels, lines.overlaps) == ("a", ("0", "1"), 1)
    assert sorted(lines.train) == [Row("bad", None, 0), Row("good", None, 1)]
    spread = read(f"{data}/spread_train.csv", columns=("a", "b", "c"))
    assert sorted(spread.train) == [Row("x", "y", 0), Row("z", "w", 1)]
    assert (spread.name, spread.labels, list(spread.dev)) == ("spread", ("no", "yes"), [Row("q", "r", 0)])
    more = "".join(f"{n % 3};a review {n}\n" for n in range(40))
    many = read(folder(tmp_path, {"stars.csv": stars + more}) + "/stars.csv", columns=("review", "stars"))
    assert many.labels == ("0", "1", "2", "5", "10")
    assert {row.text for row in [*many.train, *many.dev]} >= {"fine; really", "dull\nand long"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sst2", "sst2"),
        ("x/reviews.csv", "reviews"),
        ("x/my_train.tsv", "my"),
        ("x/train.tsv", "x"),
        ("x/", "x"),
        ("v1.2", "v1.2"),
    ],
)
def test_a_task_has_a_short_name(name: str, expected: str) -> None:
    assert task_name(name) == expected


HEAD = "sentence\tlabel\n"


@pytest.mark.parametrize(
    ("train", "error", "said"),
    [
        (None, BadData, "only the label 'positive' to train on"),
        ("text\tlabel\na\t1\n", BadData, "no column 'sentence' or 'content'; there are label, text"),
        ("sentence\nno label\n", BadData, "no column 'label'; there are sentence"),
        (HEAD + "a\t1\nb\t1\n", BadData, "only the label 'positive' to train on"),
        (HEAD + "a\t1\nb\t2\n", BadData, "sst2_train.tsv: line 3: the label '2' is none of negative, positive"),
        (HEAD + "a\t-1\n", BadData, "line 2: the label '-1' is none of"),
        (HEAD + "a\t1\nb\n", BadData, "line 3: 1 cells for the 2 columns"),
        (HEAD + "a\t1\n \t0\n", BadData, "line 3: no text in 'sentence'"),
        (HEAD + "the dev\t1\n", BadData, "no row to train on"),
        ("", BadData, "sst2_train.tsv: no row"),
        (HEAD, BadData, "a header without a row"),
        (HEAD + "x" * 100_001 + "\t1\n", BadData, "line 2: a cell of more than"),
    ],
)
def test_what_is_wrong_with_a_file_of_glue_is_said(
    tmp_path: Path, train: str | None, error: type[HybridError], said: str
) -> None:
    files = {"sst2_dev.tsv": HEAD + "the dev\t1\n" + "".join(f"dev {n}\t1\n" for n in range(30))}
    data = folder(tmp_path, files if train is None else {**files, "sst2_train.tsv": train})
    with pytest.raises(error) as caught:
        read("sst2", data)
    assert said in caught.value.message
    assert "sst2" in caught.value.message


@pytest.mark.parametrize(
    ("name", "text", "error", "said"),
    [
        ("a.csv", 'text,label\n"a,1\n', BadData, "line 2: unexpected end of data"),
        ("a.csv", 'text,label\n\n"a\nb",1\nc,\n', BadData, "line 5: 'label' has no label"),
        ("a.csv", "text,label\na,\n", BadData, "line 2: 'label' has no label"),
        ("a.csv", "text,label\n" + "".join(f"a {n},{n}\n" for n in range(101)), BadData, "more than 100 labels"),
        ("a.csv", "text,label\na,1\nb,2\n", BadData, "2 rows are too few to part"),
        ("a.jsonl", '{"text": "a", "label": 1}\n["b"]\n', BadData, "line 2: it is a list, not an object"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', BadData, "line 2: 'label' has no label"),
        ("a.jsonl", "{oops\n", BadData, "line 1"),
        ("a.jsonl", "\n", BadData, "no row"),
        ("a.parquet", "PAR1", CannotRun, "not a file of a kind that is read"),
        ("d/a.csv", "text,label\n", CannotRun, "no file in it whose name ends with train"),
    ],
)
def test_what_is_wrong_with_a_file_of_ones_own_is_said(
    tmp_path: Path, name: str, text: str, error: type[HybridError], said: str
) -> None:
    with pytest.raises(error) as caught:
        read(f"{folder(tmp_path, {name: text})}/{name.split('/', maxsplit=1)[0]}")
    assert said in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_a_task_that_is_nowhere_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="polarty: neither a task nor a file"):
        read("polarty")
    for path in (tmp_path / "own.tsv", tmp_path / "folder", "own.tsv"):
        with pytest.raises(UsageError, match="no such file or folder"):
            read(str(path))
    with pytest.raises(CannotRun, match="no file of sst2 in it; there are no files of a task"):
        read("sst2", str(tmp_path))
    with pytest.raises(CannotRun, match=r"no file of sst2 in it; there are cola_dev\.tsv") as caught:
        read("sst2", folder(tmp_path, {"cola_dev.tsv": COLA}))
    assert caught.value.hint == "such as sst2_train.tsv and sst2_dev.tsv, or sst2/train.tsv"
    with pytest.raises(UsageError, match="not a folder"):
        read("sst2", str(tmp_path / "none"))
    with pytest.raises(BadData, match=r"rte_train\.tsv: line 2: no text in 'sentence2'"):
        read("rte", folder(tmp_path, {"rte_train.tsv": RTE.replace("\tIt was wet.", "\t ")}))


def test_a_file_is_read_in_the_encoding_of_its_mark(tmp_path: Path) -> None:
    for name, day in (("sst2_train.tsv", "crème"), ("sst2_dev.tsv", "other")):
        (tmp_path / name).write_bytes(
            SST2.replace("film", day).replace("day", day).replace("dull", day).encode("utf-16")
        )
    assert Row("so crème it hurts", None, 0) in read("sst2", str(tmp_path)).train
    (tmp_path / "sst2_dev.tsv").write_bytes(b"sentence\tlabel\ncr\xe8me\t1\n")
    with pytest.raises(BadData, match=r"sst2_dev\.tsv: not UTF-8"):
        read("sst2", str(tmp_path))


def test_a_quoted_table_with_tabs_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"tabs\tin quotes"\t1\n')
    with pytest.raises(BadData) as caught:
        read(str(tmp_path / "a.tsv"))
    assert "save it as .csv" in caught.value.hint
    (tmp_path / "b.tsv").write_text("text\tlabel\na\t1\n")
    with pytest.raises(UsageError, match="no column 'rating'; there are label, text"):
        read(str(tmp_path / "b.tsv"), columns=("text", "rating"))
    with pytest.raises(UsageError, match="columns=text: 1 names"):
        read(str(tmp_path / "a.tsv"), columns=("text",))


def test_without_a_file_the_hub_is_asked_if_datasets_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"sentence": f"sentence {n}", "label": n % 2, "idx": n} for n in range(6)]
    asked = []

    def load_dataset(*names: str) -> dict[str, list[dict[str, object]]]:
        asked.append(names)
        return {"train": rows[:4], "validation": rows[4:], "test": [{"sentence": "secret", "label": -1}]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    task = read("cola")
    assert asked == [("nyu-mll/glue", "cola")]
    assert (len(task.train), len(task.dev), task.metric) == (4, 2, "mcc")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CannotRun, match="cola: no file is named, and `datasets` is not installed"):
        read("cola")
