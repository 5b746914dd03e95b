import struct

import pytest

from dermascan.image_container import read_container

FRAME = b"\xff\xc0" + struct.pack(">HBHHB3B", 11, 8, 64, 64, 1, 1, 0x11, 0)
START_OF_SCAN = b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 0, 63, 0)
LOOKS = (16_384, 16_384 * 9)  # where one look of the search for a scan's end ends


def jpeg(*scans: bytes) -> bytes:
    return b"\xff\xd8" + FRAME + b"".join(START_OF_SCAN + scan for scan in scans) + b"\xff\xd9"


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("beyond", range(-3, 4))
@pytest.mark.parametrize("ending", [b"\xff\x00", b"\xff\xd0\x01", b"\x01\xff\xff"])
def test_read_container_when_a_long_scan_ends_anywhere_finds_the_next(
    look: int, beyond: int, ending: bytes
):
    long = b"\xff\x00".ljust(look + beyond - len(ending), b"\x01") + ending

    found = read_container(jpeg(long, b"\x01", long))

    assert found.scans == 3


def test_read_container_when_nothing_is_left_behind_hands_on_the_very_bytes():
    data = jpeg(b"\x01" * 100)

    assert read_container(data).pixels is data
    assert read_container(data + b"rest").pixels == data
