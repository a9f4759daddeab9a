"""Makes the Python of our ``.proto`` files: ``make proto``, and the test that compares.

Generated code refuses a runtime that is older than its generator, so the generator is pinned to the oldest version of
grpcio and protobuf that we support, in the group ``test`` of ``pyproject.toml``.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ("tigrismount/csi/csi.proto", "tigrismount/testing/pluginregistration.proto")
"""Relative to the root of the repository."""


def generate(into: Path) -> list[Path]:
    """Write the Python of all protos below *into*, at the paths they have in the repository; return these.

    Raises:
        RuntimeError: The compiler does not take them; its own words are on standard error.
    """
    # Only here: the generator is a tool of developers.
    from grpc_tools import protoc

    included = resources.files("grpc_tools") / "_proto"
    outputs = [f"--{kind}={into}" for kind in ("python_out", "grpc_python_out", "pyi_out")]
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{included}", *outputs, *PROTOS]):
        raise RuntimeError("protoc failed")
    stems = [proto.removesuffix(".proto") for proto in PROTOS]
    return [Path(f"{stem}{end}") for stem in stems for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")]


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
