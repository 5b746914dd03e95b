"""Lets schemathesis send real images too, of which random bytes would never be one."""

import schemathesis
from hostile import encoded, hostile_images, photograph
from hypothesis import strategies as st

GOOD = encoded(photograph(), "JPEG"), encoded(photograph(80, 60, seed=1), "PNG")

schemathesis.openapi.format(
    "binary", st.one_of(st.sampled_from([*GOOD, *hostile_images().values()]), st.binary())
)
