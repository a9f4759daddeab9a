from __future__ import annotations

import json
import logging

import pytest

from tigrismount.errors import ObjectProtocolError
from tigrismount.telemetry import configure_logging

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
