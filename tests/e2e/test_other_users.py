"""Other users of the host see a mount only where whoever mounted it said so, and then by its modes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tigrismount.testing.mount import mounted

NOBODY = 65534
TRY = f"""
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
found = []
for action in (lambda: os.listdir(path), lambda: open(os.path.join(path, "file"), "rb").read().decode()):
    try: found.append(action())
    except OSError as exc: found.append(errno.errorcode[exc.errno])
print(json.dumps(found))
"""


@pytest.fixture
def public():
    """A mountpoint that every user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="tigrismount-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], '[["file"], "bytes"]'),  # root mounts for everybody
        (["--no-allow-other"], '["EACCES", "EACCES"]'),
        (["--allow-other"], '[["file"], "bytes"]'),
        (["--allow-other", "--file-mode=0400"], '[["file"], "EACCES"]'),
        (["--allow-other", "--dir-mode=0500"], '["EACCES", "EACCES"]'),
        (["--allow-other", "--file-mode=0400", f"--uid={NOBODY}"], '[["file"], "bytes"]'),
    ],
)
def test_another_user_sees_what_the_modes_allow(s3, bucket, public, python, flags, expected):
    bucket.put("file", b"bytes")
    with mounted(f"s3://{bucket.name}", public, s3.env(), "--cache-dir=off", *flags) as mount:
        assert python(TRY, mount.path).strip() == expected
