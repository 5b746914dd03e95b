"""Logits and calibrations of any kind, for property tests."""

import numpy as np
from hypothesis import strategies as st

from dermascan.model.calibration import Calibration

MALIGNANT = (0, 1, 4)
BENIGN = (2, 3, 5, 6)

logits_of_images = st.lists(
    st.lists(st.floats(-15, 15, width=32), min_size=7, max_size=7), min_size=1, max_size=5
).map(np.array)
calibrations = st.builds(
    Calibration,
    temperature=st.floats(0.3, 4),
    class_offsets=st.one_of(st.just(()), st.tuples(*[st.floats(-4, 4)] * 7)),
    malignant_slope=st.floats(0.3, 3),
    malignant_offset=st.floats(-3, 3),
    benign_slope=st.none() | st.floats(0.3, 3),
)
