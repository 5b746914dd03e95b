"""A folder of images to object storage, each with a checksum."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.config import Config

from benchmarks.rounds import Contender, Trial, timed
from benchmarks.workspace import (
    Workspace,
    aws_environment,
    image_files,
    object_store,
    run_program,
)
from dermascan.storage import Store, concurrently

TITLE = "Upload: a folder of images to S3, checksummed"
AIM = "ahead of s5cmd"
IMAGES = 2000
BOTO3_THREADS = 16


def trials(workspace: Workspace) -> Iterator[Trial]:
    """Compare on a server of this machine."""
    folder = workspace.folder(IMAGES)
    files = image_files(folder)
    with object_store(workspace.scratch / "store") as store:
        environment, target = aws_environment(store.settings), f"s3://{store.bucket}"
        s5cmd = [str(workspace.s5cmd), "cp", f"{folder}/"]
        aws = [str(workspace.peers / "aws"), "s3", "cp", "--recursive", "--only-show-errors"]
        aws += ["--checksum-algorithm", "SHA256", str(folder)]
        yield Trial(
            f"{len(files):,} files, {_megabytes(files)} MB",
            len(files),
            "images",
            (
                Contender("DermaScan", "ours", timed(lambda: _ours(store, files))),
                Contender(
                    "s5cmd cp",
                    "peer",
                    lambda: run_program([*s5cmd, f"{target}/s5cmd/"], environment),
                ),
                Contender(
                    "aws s3 cp --recursive",
                    "peer",
                    lambda: run_program([*aws, f"{target}/aws/"], environment),
                ),
                Contender(
                    f"boto3, {BOTO3_THREADS} threads", "peer", timed(lambda: _boto3(store, files))
                ),
            ),
        )


def _ours(store: Store, files: list[Path]) -> None:
    def put(file: Path) -> None:
        store.put(f"ours/{file.name}", file.read_bytes(), "image/jpeg")

    for _ in concurrently(put, files):
        pass


def _boto3(store: Store, files: list[Path]) -> None:
    settings, secret = store.settings, store.settings.secret_access_key
    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        region_name=settings.region,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(max_pool_connections=BOTO3_THREADS),
    )

    def put(file: Path) -> None:
        client.put_object(
            Bucket=store.bucket,
            Key=f"boto3/{file.name}",
            Body=file.read_bytes(),
            ContentType="image/jpeg",
            ChecksumAlgorithm="SHA256",
        )

    with ThreadPoolExecutor(BOTO3_THREADS) as pool:
        list(pool.map(put, files))


def _megabytes(files: list[Path]) -> int:
    return round(sum(file.stat().st_size for file in files) / 1e6)
