"""The committed Python of our messages is what the pinned generator makes of the ``.proto`` files."""

from __future__ import annotations

import re
import tomllib

from tigrismount.testing.protobuf import PROTOS, ROOT, generate


def test_generated_code_is_up_to_date(tmp_path):
    made = generate(tmp_path)

    assert len(made) == 3 * len(PROTOS)
    stale = [str(path) for path in made if (tmp_path / path).read_text() != (ROOT / path).read_text()]
    assert stale == [], "run make proto"


def test_generated_code_runs_on_the_oldest_libraries_of_the_extra():
    """It refuses a library that is older than its generator."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = dict(requirement.split(">=") for requirement in project["optional-dependencies"]["csi"])
    for proto in PROTOS:
        stem = proto.removesuffix(".proto")
        services, messages = (ROOT / f"{stem}_pb2_grpc.py").read_text(), (ROOT / f"{stem}_pb2.py").read_text()
        assert re.search(r"GRPC_GENERATED_VERSION = '(.*)'", services)[1] == oldest["grpcio"]
        assert re.search(r"# Protobuf Python Version: (.*)", messages)[1] == oldest["protobuf"]
