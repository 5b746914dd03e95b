import pytest

from dermascan.assessment.approval import read_approver
from dermascan.errors import PermanentError

ANN = {"id": "7", "name": "ann"}


def test_read_approver_when_somebody_approved_names_them():
    assert read_approver({"chosen_options": ["Approve"], "responded_by_user": ANN}) == "ann"


@pytest.mark.parametrize(
    "answer",
    [
        None,  # the task was marked as successful by hand
        {},
        {"chosen_options": ["Approve"], "responded_by_user": None},
        {"chosen_options": ["Reject"], "responded_by_user": ANN},
        {"chosen_options": [], "responded_by_user": ANN},
    ],
)
def test_read_approver_when_nobody_approved_refuses(answer):
    with pytest.raises(PermanentError, match="nobody approved"):
        read_approver(answer)
