"""The Dockerfile, read and not built: ``make test-image`` builds it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from tigrismount.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stages() -> list[list[tuple[str, str]]]:
    """Instructions and their values, stage by stage; what comes before the first is the first element."""
    found: list[list[tuple[str, str]]] = [[]]
    for entry in DockerfileParser(str(ROOT / "Dockerfile")).structure:
        if entry["instruction"] == "COMMENT":
            continue
        if entry["instruction"] == "FROM":
            found.append([])
        found[-1].append((entry["instruction"], entry["value"]))
    return found


def values(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [value for name, value in stage if name == instruction]


def test_every_stage_is_built_on_the_base_that_is_asked_for(stages):
    assert [stage[0] for stage in stages[1:]] == [("FROM", "${BASE} AS build"), ("FROM", "${BASE}")]
    (base,) = values(stages[0], "ARG")
    assert re.fullmatch(r"BASE=[\w.-]+(/[\w.-]+)+:\d+\.\d+[\w.-]*", base), "a name with a version, and not 'latest'"


def test_the_last_stage_is_not_root_and_says_so_with_a_number(stages):
    assert values(stages[-1], "USER") == ["10001:10001"]
    after = [name for name, _ in stages[-1][[name for name, _ in stages[-1]].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)


def test_signals_reach_the_program_and_children_are_waited_for(stages):
    assert json.loads(values(stages[-1], "ENTRYPOINT")[0]) == ["/usr/bin/tini", "--", "tigrismount"]


def test_the_health_check_is_a_command_that_there_is(stages, capfd):
    (check,) = values(stages[-1], "HEALTHCHECK")
    words = json.loads(check[check.index("[") :])
    assert (words[0], words[2]) == ("tigrismount", "/mnt/tigris/models")
    assert main([words[1], "/", *words[3:]]) == 1  # what it says where nothing of ours is mounted
    assert "another kind" in capfd.readouterr().out


def test_what_is_downloaded_is_named_with_its_version(stages):
    (tools,) = [value for value in values(stages[1], "ARG") if value.startswith("BUILD_TOOLS=")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", tool) for tool in shlex.split(tools.partition("=")[2])[0].split())
    steps = [step for run in values(stages[1], "RUN") for step in run.split("&&")]
    installs = [step for step in steps if "/build/bin/pip " in step]
    assert len(installs) == 4
    for install in installs:
        is_told = "${BUILD_TOOLS}" in install or {"--no-deps", "--no-index", "--requirement"} & set(install.split())
        assert is_told, install


def test_no_layer_keeps_what_apt_downloads(stages):
    for stage in stages[1:]:
        for run in values(stage, "RUN"):
            if "apt-get install" in run:
                assert "--no-install-recommends" in run
                assert "rm -rf /var/lib/apt/lists/*" in run


def test_nothing_comes_from_the_network_but_through_the_package_managers(stages):
    every = [value for stage in stages for _, value in stage]
    assert not [value for value in every if re.search(r"\b(curl|wget|git clone)\b", value)]
    assert [values(stage, "ADD") for stage in stages] == [[]] * 3


def test_the_context_is_a_list_of_what_is_needed():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / path).exists() for path in allowed)
    assert not {".", ".git", ".venv", "tests", "examples", "docs"} & allowed
