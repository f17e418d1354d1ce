"""Where the tier does not separate sessions, one session's code runs; where it does, everybody's."""

from __future__ import annotations

import pytest

from era.errors import UnavailableError
from era.models import Network
from era.sessions.admission import Admission


def refused(admission: Admission, who: int | str, network: Network = Network.INTERNET) -> str:
    with pytest.raises(UnavailableError) as caught:
        admission.admit(who, network)
    assert caught.value.code == "isolation_unavailable"
    assert caught.value.extra["hint"]
    return str(caught.value.extra["message"])


def test_where_sessions_are_separated_everyone_is_served() -> None:
    admission = Admission()
    for who in (1, "run_1", 2):
        admission.admit(who, Network.OFFLINE)
        admission.refuse_another()


def test_where_they_are_not_the_first_is_the_only_one() -> None:
    admission = Admission(one_session=True)
    admission.refuse_another()
    for _ in range(2):
        admission.admit(1, Network.OFFLINE)
    assert "another session" in refused(admission, 2)
    assert "another session" in refused(admission, "run_1")
    with pytest.raises(UnavailableError):
        admission.refuse_another()
    admission.admit(1, Network.OFFLINE)


def test_what_must_be_offline_does_not_run_where_it_would_not_be() -> None:
    admission = Admission(one_session=True, cuts_off=False)
    for network in (Network.OFFLINE, Network.REGISTRIES):
        assert "cut off" in refused(admission, 1, network)
    admission.admit(2, Network.INTERNET)  # the first was refused, so it was not served


def test_without_a_tier_nobody_is_served() -> None:
    admission = Admission(refused=("nothing works here", "make it work"))
    assert refused(admission, 1) == "nothing works here"
