"""S3 policies that give each role of the pipeline what its work needs, and no more."""

import json
from pathlib import Path
from typing import Literal, get_args

from dermascan.errors import InputError

Role = Literal["ingest", "training", "inference", "serving"]

ROLES: tuple[Role, ...] = get_args(Role)
POLICIES = Path(__file__).parents[1] / "include" / "policies"
IMAGES_PREFIX = "incoming/"


def policy_document(role: Role, bucket: str, images_prefix: str = IMAGES_PREFIX) -> str:
    """Return a role's policy, as JSON in the language of AWS IAM.

    Args:
        role: whose rights.
        bucket: where the pipeline keeps its objects; may hold the wildcards of that language.
        images_prefix: where new images come in, read by `inference`.

    Raises:
        InputError: bucket or prefix would change the meaning of the policy.
    """
    if not bucket or "/" in bucket or images_prefix.strip() in {"", "*"}:
        raise InputError(
            f"{bucket!r}, {images_prefix!r}: name a bucket, and a prefix that does not take in all"
        )
    text = (POLICIES / f"{role}.json").read_text()
    quoted = {
        "BUCKET_NAME": json.dumps(bucket)[1:-1],
        "IMAGES_PREFIX": json.dumps(images_prefix)[1:-1],
    }
    for placeholder, value in quoted.items():
        text = text.replace(placeholder, value)
    return text
