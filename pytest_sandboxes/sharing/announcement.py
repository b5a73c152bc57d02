"""What a worker tells of itself once it has collected its tests: profiles, wishes, and tests that need sandboxes."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sharing import messages
from pytest_sandboxes.sharing.messages import take
from pytest_sandboxes.supply import Wish

Content = Mapping[str, object]


class Announcement:
    """Of one worker. All that takes or looks up raises `ProtocolError` for what no worker of ours says."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []
        self.tests: dict[str, bool] = {}
        """Node ids of the tests that need sandboxes, and whether each may be repeated."""
        self._profiles: dict[int, Profile] = {}

    def take_profile(self, content: Content) -> None:
        """A profile, and the number that stands for it from now on."""
        packed = take(content, "profile", bytes)
        self._profiles[take(content, "number", int)] = messages.unpack_profile(packed)

    def take_wishes(self, content: Content) -> None:
        """What the tests will lease."""
        for wish in take(content, "wishes", list):
            match wish:
                case [str(backend), int(profile), int(leases), int(at_once), str(holder)]:
                    self.wishes.append(Wish(backend, self.profile(profile), leases, at_once, holder))
                case _:
                    raise ProtocolError("not a wish")

    def take_tests(self, content: Content) -> None:
        """Some of the tests."""
        for test in take(content, "tests", list):
            match test:
                case [str(nodeid), bool(may_be_repeated)]:
                    self.tests[nodeid] = may_be_repeated
                case _:
                    raise ProtocolError("not a test")

    def profile(self, number: object) -> Profile:
        """The profile of that number."""
        found = self._profiles.get(number) if isinstance(number, int) else None
        if found is None:
            raise ProtocolError("a profile that it has not told of")
        return found
