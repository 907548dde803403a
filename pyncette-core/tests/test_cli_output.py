"""What commands print obeys nobody but the command: names, errors and arguments come from anywhere."""

import io
import json
import logging
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyncette.cli import logs, output
from pyncette.cli.commands import run_command

#: Clears the screen; C1; turns around what follows; takes no room; ends a line; looks like a blank.
HOSTILE = "a\x1b[2Jb\x9b2Jc\u202ed\u200be\u2028f\u3164g\ufe0fh\r\n\x00\ud800\u2066i\U000e0041j"


def harmless(text):
    return all(char == "\n" or (char.isprintable() and char not in "\u3164\ufe0f\u2800") for char in text)


@given(st.text())
@example(HOSTILE)
@example("Z" + "\u0301" * 200)
def test_whatever_is_printed_stays_on_its_line_and_moves_nothing(text):
    stdout, stderr = io.StringIO(), io.StringIO()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = stdout, stderr
    try:
        output.say(text)
        output.print_pairs({"name": text, "none": None})
        output.print_table(["name", "other"], [(text, text), (None, "short")])
        output.note(text)
    finally:
        sys.stdout, sys.stderr = before
    assert harmless(stdout.getvalue() + stderr.getvalue())
    assert (stdout.getvalue().count("\n"), stderr.getvalue().count("\n")) == (5, 1)
    marks = [unicodedata.category(char) in ("Mn", "Me") for char in stdout.getvalue()]
    assert not any(all(marks[index : index + 5]) for index in range(len(marks) - 4))


@given(st.text())
@example(HOSTILE)
@example("plain")
def test_escaping_twice_changes_nothing_and_plain_text_stays(text):
    assert output.printable(output.printable(text)) == output.printable(text)
    assert output.printable("Grüße, 四半期, עברית, مرحبا, हिन्दी 🙂") == "Grüße, 四半期, עברית, مرحبا, हिन्दी 🙂"


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.floats(allow_nan=False, allow_infinity=False)))
@example({"name": HOSTILE})
def test_json_is_exact_and_ascii(values):
    stdout, before = io.StringIO(), sys.stdout
    sys.stdout = stdout
    try:
        output.print_json(values)
    finally:
        sys.stdout = before
    assert stdout.getvalue().isascii()
    assert stdout.getvalue().count("\n") == 1
    assert json.loads(stdout.getvalue()) == values


def record(message, error=None):
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("shop\x1b", logging.INFO, __file__, 1, message, None, info)


@given(st.text())
@example(HOSTILE)
@example("\n2026-01-01 00:00:00,000 INFO pyncette: all is well")
def test_nothing_that_is_logged_passes_for_a_line_of_its_own(text):
    handler = logs.handler("text", several=True)
    lines = handler.format(record(text)).split("\n")
    assert len(lines) == 1
    assert harmless(lines[0])
    first, *more = handler.format(record("failed", ValueError(text))).split("\n")
    assert first.endswith("failed")
    assert more
    assert all(line.startswith("  ") or not line for line in more)
    assert harmless("\n".join(more))


@pytest.mark.parametrize(
    "arguments",
    [
        [HOSTILE],
        ["list"],
        ["list", "a:b", "c", HOSTILE],
        ["list", "a:b", "--limit", HOSTILE],
        ["list", "a:b", "--limit", "-1"],
        ["list", "a:b", "--limit", "1_0"],
        ["list", "a:b", "--limit", "9" * 5000],
        ["next", "a:b", "--to", HOSTILE],
        ["next", "a:b", "--to", f"+{'9' * 5000}d"],
        ["next", "a:b", "--timezone", HOSTILE],
        ["next", "a:b", "--timezone", "x" * 100_000],
        ["list", "a:b", f"--{HOSTILE}"],
        ["run", "a:b", "--processes", "-1"],
    ],
)
def test_wrong_usage_is_one_harmless_line_of_bounded_length(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run_command(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert harmless(printed.err)
    assert len(printed.err) < 5000


def test_a_url_in_the_wrong_place_does_not_show_its_password(capsys):
    with pytest.raises(SystemExit):
        run_command(["list", "a:b", "c", "redis://:s3cret@localhost"])
    assert run_command(["list", "redis://:s3cret@localhost"]) == 1
    with pytest.raises(SystemExit):
        run_command(["list", "a:b", "--ur1=redis://:s3cret"])
    assert "s3cret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "app", [f"{HOSTILE}:app", f"{HOSTILE}.py:app".replace("\x00", ""), "json:" + HOSTILE, "", ":", "json:" + "x" * 9999]
)
def test_an_app_that_can_not_be_is_one_harmless_line(capsys, app):
    assert run_command(["list", app]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert harmless(printed.err)


def test_a_traceback_of_the_program_is_escaped(capsys, tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text(f"raise LookupError({HOSTILE!r})\n")
    monkeypatch.chdir(tmp_path)
    assert run_command(["list", "hostile.py:app"]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "LookupError" in printed
    assert harmless(printed)


def test_a_program_that_ends_while_it_is_imported_is_an_error(capsys, tmp_path, monkeypatch):
    (tmp_path / "ends.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    assert run_command(["check", "ends.py:app"]) == 1
    assert "__main__" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="/dev/full and closing descriptors are of POSIX")
@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [(">/dev/full", 1, "No space left"), (">&-", 0, ""), (">&- 2>&-", 0, ""), ("2>&-", 0, ""), ("| true", 0, "")],
)
def test_output_that_goes_nowhere_is_one_line_at_most(tmp_path, redirection, code, words):
    (tmp_path / "shop.py").write_text(
        "import pyncette\napp = pyncette.Pyncette('sqlite:///shop.db')\napp.task(schedule='0 9 * * *')(print)\n"
    )
    ended = subprocess.run(
        f"{sys.executable} -m pyncette check shop.py:app {redirection}",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code
    assert words in ended.stderr
    assert ended.stderr.count("\n") <= 1


@pytest.mark.skipif(os.name == "nt", reason="/dev/full is of POSIX")
def test_a_script_for_completion_that_cannot_be_written_is_one_line():
    command = f"{sys.executable} -m pyncette completion bash >/dev/full"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "No space left" in ended.stderr
    assert ended.stderr.count("\n") == 1
