"""A daemon in a control group that is far smaller than what it loads is not the process that the kernel kills.

``TIGRISMOUNT_MEMORY_MIB`` and ``TIGRISMOUNT_MEMORY_MODEL_MIB`` set other sizes.
"""

from __future__ import annotations

import hashlib
import os

import pytest

from tigrismount.testing.cgroup import limited_memory
from tigrismount.testing.mount import mounted

MIB = 1 << 20
LIMIT_MIB = int(os.environ.get("TIGRISMOUNT_MEMORY_MIB", "256"))
MODEL_MIB = int(os.environ.get("TIGRISMOUNT_MEMORY_MODEL_MIB", "768"))
FILE_MIB = 128

LOAD = """
for name in sorted(os.listdir(path)):
    with open(os.path.join(path, name), "rb", buffering=0) as file:
        if sys.argv[2] == "mmap":
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
                digest = hashlib.blake2b(view).hexdigest()
        else:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()
    print(name, digest)
"""


@pytest.fixture
def group():
    try:
        context = limited_memory(LIMIT_MIB * MIB)
        group = context.__enter__()
    except OSError as exc:
        pytest.skip(f"no memory control group can be made here: {exc}")
    yield group
    context.__exit__(None, None, None)


@pytest.mark.parametrize("how", [pytest.param("read", marks=pytest.mark.slow), "mmap"])
def test_a_load_three_times_the_memory_limit(group, bucket, s3, tmp_path, python, noise, how):
    expected = []
    for number in range(MODEL_MIB // FILE_MIB):
        data = noise(FILE_MIB * MIB, number)
        bucket.put(f"{number:03}.bin", data)
        expected.append(f"{number:03}.bin {hashlib.blake2b(data).hexdigest()}")
    (tmp_path / "mnt").mkdir()
    with mounted(
        f"s3://{bucket.name}", tmp_path / "mnt", s3.env(), f"--cache-dir={tmp_path / 'cache'}", prefix=group.prefix
    ) as mount:
        status = mount.status()
        assert status["memory"]["limit"] < LIMIT_MIB * MIB / 2, "the default knows the group"
        assert python(LOAD, mount.path, how, timeout_s=300).splitlines() == expected
        assert mount.status()["takeovers"]["count"] == 0
        assert group.oom_kills == 0
    assert group.peak_bytes <= LIMIT_MIB * MIB
