"""What the parts of the stack inherit from whoever starts them."""

import os
from collections.abc import Mapping


def inherited_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the caller's environment, with loopback kept away from any proxy."""
    here = ["127.0.0.1", "localhost"]
    listed = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    no_proxy = ",".join([*filter(None, listed.split(",")), *here])
    return {**environment, "NO_PROXY": no_proxy, "no_proxy": no_proxy}


def without(environment: Mapping[str, str], *prefixes: str) -> dict[str, str]:
    """Return the variables whose names start with none of the prefixes."""
    return {name: value for name, value in environment.items() if not name.startswith(prefixes)}
