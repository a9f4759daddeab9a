"""Upload a model's directory to s3://$MODEL_BUCKET_NAME/$MODEL_PATH/ and take a snapshot of the bucket."""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

DEFAULT_ENDPOINT_URL = "https://t3.storage.dev"
FILES_AT_ONCE = 4  # each large one is uploaded in ten parts at once


def main() -> int:
    """Upload, take the snapshot, and return the exit status."""
    options = parse_arguments()
    try:
        client = connect()
        if options.create_bucket:
            create_bucket_with_snapshots(client, options.bucket)
        upload_directory(client, options.directory, options.bucket, options.path.strip("/"))
        if options.snapshot:
            version = take_snapshot(client, options.bucket, options.snapshot)
            print(f"snapshot {version} ({options.snapshot})")
    except (Boto3Error, BotoCoreError, ClientError, OSError, ValueError) as exc:
        print(f"upload_model: error: {exc}", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the command line, with the environment behind it."""
    parser = argparse.ArgumentParser(description=__doc__)
    bucket, path = os.environ.get("MODEL_BUCKET_NAME"), os.environ.get("MODEL_PATH")
    parser.add_argument("directory", type=Path, help="what to upload, with everything below")
    parser.add_argument("--bucket", default=bucket, required=not bucket, help="[$MODEL_BUCKET_NAME]")
    parser.add_argument("--path", default=path, required=not path, help="where in the bucket [$MODEL_PATH]")
    parser.add_argument("--create-bucket", action="store_true", help="make the bucket first, with snapshots enabled")
    parser.add_argument("--snapshot", metavar="NAME", help="take a snapshot of this name when all files are there")
    return parser.parse_args()


def connect() -> Any:
    """Return a boto3 client for Tigris, or for what AWS_ENDPOINT_URL_S3 names; keys come from the environment."""
    endpoint_url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or DEFAULT_ENDPOINT_URL
    config = Config(max_pool_connections=64, request_checksum_calculation="when_required")
    return boto3.client("s3", endpoint_url=endpoint_url, region_name="auto", config=config)


def upload_directory(client: Any, directory: Path, bucket: str, prefix: str) -> None:
    """Upload every file below *directory*; an index only when the files that it names are there.

    Raises:
        ValueError: There is none.
    """
    files = sorted((path for path in directory.rglob("*") if path.is_file()), key=size_bytes, reverse=True)
    indexes = [path for path in files if path.suffix == ".json"]
    if not files:
        raise ValueError(f"{directory} holds no files")

    def upload(path: Path) -> None:
        name = path.relative_to(directory).as_posix()
        client.upload_file(str(path), bucket, f"{prefix}/{name}" if prefix else name)

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for batch in ([path for path in files if path not in indexes], indexes):
            list(pool.map(upload, batch))  # waits for the batch, and raises what went wrong
    total = sum(map(size_bytes, files)) / 1e9
    print(f"uploaded {len(files)} files, {total:.1f} GB, to s3://{bucket}/{prefix}")


def size_bytes(path: Path) -> int:
    """Return the size of a file."""
    return path.stat().st_size


def create_bucket_with_snapshots(client: Any, bucket: str) -> None:
    """Make a bucket of which snapshots can be taken."""
    with_header(client, "X-Tigris-Enable-Snapshot", "true", bucket)


def take_snapshot(client: Any, bucket: str, name: str) -> str:
    """Take a snapshot of the bucket as it is now, and return its version.

    Raises:
        ValueError: The store or the bucket has no snapshots.
    """
    headers = with_header(client, "X-Tigris-Snapshot", f"true; name={quote_plus(name)}", bucket)
    version = headers.get("x-tigris-snapshot-version")
    if not version:
        raise ValueError(f"no snapshot was taken: s3://{bucket} was not created with snapshots enabled")
    return str(version)


def with_header(client: Any, name: str, value: str, bucket: str) -> dict[str, str]:
    """Send CreateBucket with a header of Tigris's, which boto3 has no argument for, and return the answer's headers."""

    def add(request: Any, **_: Any) -> None:
        request.headers[name] = value  # before it is signed, so that the signature covers it

    client.meta.events.register("before-sign.s3.CreateBucket", add)
    try:
        headers: dict[str, str] = client.create_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
    finally:
        client.meta.events.unregister("before-sign.s3.CreateBucket", add)
    return headers


if __name__ == "__main__":
    sys.exit(main())
