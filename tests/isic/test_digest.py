import hashlib
import os

import pytest

from dermascan.isic import digest

BODY = b"an image"
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
S3 = {"server": "AmazonS3", "etag": f'"{MD5}"'}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"repr-digest": digest.of_bytes(BODY)},
        {"repr-digest": f"sha-512=:AAAA:, {digest.of_bytes(BODY)}"},
        {"repr-digest": "sha-512=:AAAA:"},
        S3,
        {"etag": '"0123456789abcdef0123456789abcdef"'},
        S3 | {"etag": '"0123456789abcdef0123456789abcdef-3"'},
        {"server": "AmazonS3", "etag": '"0123"', "x-amz-server-side-encryption": "AES256"},
    ],
)
def test_contradicted_when_the_answer_says_nothing_else_is_none(headers):
    assert digest.contradicted(headers, BODY) is None


@pytest.mark.parametrize(
    ("headers", "statement"),
    [
        ({"repr-digest": digest.of_bytes(b"other")}, "its SHA-256"),
        ({"repr-digest": "sha-256=:not base 64=:"}, None),
        ({"repr-digest": "sha-256=:AAA:"}, "its SHA-256"),
        (S3 | {"etag": f'"{MD5[::-1]}"'}, "the MD5 in its entity tag"),
        (S3 | {"etag": f'"{MD5[::-1]}"', "x-amz-server-side-encryption": "aws:kms"}, None),
    ],
)
def test_contradicted_when_the_body_is_another_names_the_statement(headers, statement):
    assert digest.contradicted(headers, BODY) == statement


def test_of_file_when_the_file_changes_follows(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BODY)
    assert digest.of_file(path) == digest.of_bytes(BODY)
    path.write_bytes(b"an other")
    os.utime(path, (1, 1))
    assert digest.of_file(path) == digest.of_bytes(b"an other")
