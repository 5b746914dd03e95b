import pytest

from dermascan.errors import InputError
from dermascan.imaging import DecodeLimits, Preprocessing
from dermascan.serving.limits import ServingLimits, limits_from_environment


def test_limits_from_environment_takes_what_is_set_and_keeps_the_rest():
    limits = limits_from_environment({"DERMASCAN_SERVING_IMAGES": "8", "HOME": "/"})

    assert limits == ServingLimits(images=8)


def test_limits_from_environment_when_a_value_is_wrong_names_the_variable():
    with pytest.raises(InputError, match=r"DERMASCAN_SERVING_SECONDS: .*greater than 0"):
        limits_from_environment({"DERMASCAN_SERVING_SECONDS": "0"})


def test_applied_to_takes_the_stricter_of_both():
    own = Preprocessing(limits=DecodeLimits(max_bytes=10, max_pixels=1_000, min_side=7))

    both = ServingLimits(image_bytes=100, image_pixels=500).applied_to(own)

    assert both.limits == DecodeLimits(max_bytes=10, max_pixels=500, min_side=7)
    assert ServingLimits().applied_to(Preprocessing()) == Preprocessing()
