"""Keys of the test's S3 server that have the shipped policies, for one bucket."""

import json
from pathlib import Path

from dermascan.policies import ROLES, policy_document

BUCKET = "of-roles"


def add_roles(identity_file: Path, secret: str) -> None:
    """Add an identity for each role, named as the role, to the file that the server reads."""
    known = json.loads(identity_file.read_text())
    known["policies"] = [{"name": role, "content": policy_document(role, BUCKET)} for role in ROLES]
    known["identities"] += [
        {
            "name": role,
            "credentials": [{"accessKey": role, "secretKey": secret}],
            "policyNames": [role],
        }
        for role in ROLES
    ]
    identity_file.write_text(json.dumps(known))
