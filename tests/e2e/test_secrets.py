"""The secret key is in the memory of the worker and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from tigrismount.testing.mount import mounted


def files_that_hold(directory: Path, secret: bytes) -> list[str]:
    paths = [os.path.join(where, name) for where, _, names in os.walk(directory) for name in names]
    return [path for path in paths if os.path.isfile(path) and secret in Path(path).read_bytes()]


def test_the_secret_is_in_no_argument_environment_log_status_or_cache(s3, bucket, tmp_path, python):
    secret = s3.secret_key.encode()
    bucket.put("file", b"x" * 100_000)
    directory = tmp_path / "kept"
    (directory / "mnt").mkdir(parents=True)
    profile = tmp_path / "credentials"
    profile.write_text(f"[models]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n")
    env = {name: value for name, value in s3.env().items() if not name.startswith("AWS_")}
    env |= {"AWS_SHARED_CREDENTIALS_FILE": str(profile), "AWS_PROFILE": "models", "AWS_EC2_METADATA_DISABLED": "true"}
    flags = [f"--endpoint-url={s3.endpoint_url}", f"--region={s3.region}", f"--cache-dir={directory / 'cache'}"]
    flags += ["--log-level=debug", f"--log-file={directory / 'log'}"]
    with mounted(f"s3://{bucket.name}", directory / "mnt", env, *flags) as mount:
        python("print(len(open(path, 'rb').read()))", os.path.join(mount.path, "file"))
        assert secret.decode() not in str(mount.status())
        assert len(mount.pids) >= 2
        for pid in mount.pids:
            for name in ("cmdline", "environ"):
                assert secret not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert files_that_hold(tmp_path, secret) == [str(profile)], "and the search finds what is there"
    assert (directory / "log").stat().st_size > 0
    assert files_that_hold(directory, secret) == []
