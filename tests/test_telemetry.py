from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys

import pytest
import trio
import trio.testing

from tigrismount.errors import ObjectProtocolError
from tigrismount.telemetry import configure_logging, report_on_signal

HOSTILE = "k\nERROR forged: line\x1b[2J\u202e\udcff"
"""A key that would begin a line of its own, clear the screen, turn the text around, and is no UTF-8."""


@pytest.fixture
def written(capsys):
    """Configure logging, log, and return what was written."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions

    class Config:
        log_level = "info"
        log_format = "text"

    def write(log_format: str, *arguments: object) -> str:
        Config.log_format = log_format
        configure_logging(Config)
        logging.getLogger("tigrismount.test").info(*arguments)
        return capsys.readouterr().err

    yield write
    root.handlers[:], logging.raiseExceptions = before[0], before[2]
    root.setLevel(before[1])


def test_keys_cannot_forge_lines_or_steer_the_terminal(written):
    text = written("text", "cannot read %s: %s", HOSTILE, ObjectProtocolError("odd", bucket="b", key=HOSTILE))
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert "k\\x0aERROR forged" in text


def test_json_lines_hold_keys_as_they_are_and_are_one_line_each(written):
    text = written("json", "cannot read %s", HOSTILE)
    assert text.count("\n") == 1
    assert json.loads(text)["message"] == f"cannot read {HOSTILE}"


def test_json_lines_of_an_error_name_what_it_concerns_in_fields(written):
    error = ObjectProtocolError("odd", bucket="b", key="k")
    error.request_id = "4442587FB7D0A2F9"
    line = json.loads(written("json", "read: %s", error))
    assert {name: line[name] for name in ("error", "bucket", "key", "request_id")} == {
        "error": "ObjectProtocolError",
        "bucket": "b",
        "key": "k",
        "request_id": "4442587FB7D0A2F9",
    }
    assert "request_id" not in json.loads(written("json", "read: %s", ObjectProtocolError("odd")))


async def test_signals_dump_the_state_and_switch_the_level(written, capsys):
    written("text", "configured")
    logger = logging.getLogger("tigrismount")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report_on_signal, lambda: {"source": "s3://b"})
        await trio.testing.wait_all_tasks_blocked()
        said = []
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2):
            os.kill(os.getpid(), number)
            with trio.fail_after(30):
                while not (text := capsys.readouterr().err):
                    await trio.lowlevel.checkpoint()
            said.append((text, logger.level))
        nursery.cancel_scope.cancel()
    assert 'state: {"source": "s3://b"}' in said[0][0]
    assert "from level debug on" in said[1][0]
    assert "from level info on" in said[2][0]
    assert [level for _, level in said] == [logging.INFO, logging.DEBUG, logging.INFO]


TALKS = """
import logging
from tigrismount.loglines import log_to_standard_error
log_to_standard_error("info", json_lines=False)
for number in range(3000):
    logging.getLogger("tigrismount.test").info("%d %s", number, "x" * 100)
print("done", flush=True)
input()
logging.getLogger("tigrismount.test").info("the last one")
"""


def test_who_has_stopped_reading_stops_nobody():
    """Mutation: with a supervisor that is stopped (Ctrl-Z) the worker stands at its next line, and all who read."""
    command = [sys.executable, "-c", TALKS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert select.select([process.stdout], [], [], 30)[0], "it waits for its reader"
            first = os.read(process.stderr.fileno(), 1 << 20)
            _, rest = process.communicate(b"\n", timeout=30)
        finally:
            process.kill()
    *lines, last, end = (first + rest).decode().split("\n")
    assert [line.partition(".test: ")[2].split()[0] for line in lines[:100]] == list(map(str, range(100)))
    assert last.endswith("tigrismount.test: the last one")
    assert not end


def test_what_is_logged_without_a_standard_error_ends_nobody():
    """Mutation: a driver that was started with it closed ends with the first line."""
    code = (
        "import logging; from tigrismount.loglines import log_to_standard_error as to; to('info', json_lines=False)\n"
        "logging.getLogger('tigrismount').info('x'); print('goes on')"
    )
    command = ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "goes on\n"
