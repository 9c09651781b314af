from pathlib import Path

import pytest
from noise import noise

from jasper_ray.data.readers.table import is_table, read_table
from jasper_ray.errors import DataError

CSV = "wav_filename,wav_filesize,transcript"
TSV = "client_id\tpath\tsentence\tage"


def write(folder: Path, name: str, *lines: str) -> Path:
    for seed, audio in enumerate(("wav/a.wav", "wav/b.wav", "clips/c.wav", "clips/d.wav")):
        (folder / audio).parent.mkdir(exist_ok=True)
        (folder / audio).write_bytes(noise(seed))
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / name


def test_a_csv_gives_audio_text_and_other_columns(tmp_path: Path) -> None:
    lines = f"\ufeff{CSV},speaker", 'wav/a.wav,10,"hi, ""you""",s', f"{tmp_path}/wav/b.wav,,bye,"
    one, two = read_table(write(tmp_path, "train.csv", *lines))
    assert (one.id, one.text, one.speaker, one.audio.read(), one.path) == ("a", 'hi, "you"', "s", noise(0), "wav/a.wav")
    assert one.fields == {"wav_filesize": "10", "speaker": "s"}
    assert (two.id, two.text, two.speaker, two.audio.read(), two.fields) == ("b", "bye", "", noise(1), {})


def test_a_tsv_has_its_audio_in_clips_and_quotes_as_they_are(tmp_path: Path) -> None:
    file = write(tmp_path, "validated.tsv", TSV, 's1\tc.wav\t"Hi\tteens', "s2\td.wav\tit's \u2028 on\t")
    one, two = read_table(file)
    assert (one.id, one.text, one.speaker, one.audio.read(), one.path) == ("c", '"Hi', "s1", noise(2), "c.wav")
    assert one.fields == {"age": "teens", "speaker": "s1", "split": "validated"}
    assert (two.id, two.text, two.speaker, two.audio.read()) == ("d", "it's \u2028 on", "s2", noise(3))


def test_of_a_release_only_train_dev_and_test_are_read(tmp_path: Path) -> None:
    for name in ("validated", "test", "train", "other"):
        write(tmp_path, f"{name}.tsv", TSV, "s\tc.wav\thi\t")
    assert is_table(tmp_path)
    assert [u.fields["split"] for u in read_table(tmp_path)] == ["train", "test"]


def test_a_folder_without_them_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "validated.tsv", TSV)
    with pytest.raises(DataError, match=r"has none of train\.tsv, dev\.tsv, test\.tsv\. Give the table"):
        next(read_table(tmp_path))


@pytest.mark.parametrize(
    ("name", "lines", "reason"),
    [
        ("x.csv", [CSV, "wav/a.wav,1,x", "wav/no.wav,1,x"], r"line 3: audio .*no\.wav cannot be read: No such file"),
        ("x.csv", [CSV, "wav/a.wav,1"], "line 2: must have 3 columns as line 1 has, got 2"),
        ("x.csv", [CSV, ",1,x"], "line 2: wav_filename is empty"),
        ("x.csv", [CSV, 'wav/a.wav,1,"x'], "line 2: unexpected end of data"),
        ("x.csv", ["file,text"], "line 1: lacks .*: expected wav_filename, transcript, got file, text"),
        ("x.csv", [], "line 1: lacks .*, got nothing"),
        ("x.tsv", [TSV, "s\tc.wav\thi\t", "s\tno.wav\thi\t"], r"line 3: audio .*clips/no\.wav cannot be read"),
        ("x.tsv", [TSV, "s\tc.wav\thi"], "line 2: must have 4 columns as line 1 has, got 3"),
        (
            "x.tsv",
            ["path\tsentence"],
            "line 1: lacks client_id: expected client_id, path, sentence, got path",
        ),
    ],
)
def test_a_malformed_line_names_file_line_and_reason(tmp_path: Path, name: str, lines: list[str], reason: str) -> None:
    with pytest.raises(DataError, match=rf"{name}, {reason}"):
        list(read_table(write(tmp_path, name, *lines)))


def test_a_file_that_is_not_utf_8_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(f"{CSV}\na,1,caf\xe9\n".encode("latin-1"))
    for name in ("x.csv", "no.csv"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read"):
            list(read_table(tmp_path / name))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"\ufeff{CSV}\r\n", True),
        (f"{TSV}\n", True),
        ('{"audio": "a.wav", "text": "x"}\n', False),
        ('{"audio_filepath": "a.wav", "text": "x"}\n', False),
        ('[{"transcript": "x", "files": []}]', False),
        ("path,sentence\n", False),
        ("", False),
    ],
)
def test_the_format_is_told_by_content(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "train.tsv").write_text(text)
    assert is_table(tmp_path / "train.tsv") is is_table(tmp_path) is expected
    assert not is_table(tmp_path / "no.tsv")
