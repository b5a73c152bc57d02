"""Whatever a shard may say, pytest's own reporters survive it, and JUnit's file stays one."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from pytest_sandboxes.batch import events
from pytest_sandboxes.batch.durations import Durations
from pytest_sandboxes.batch.events import BrokenEvent, Record, Warned
from pytest_sandboxes.batch.replay import Replay

pytest_plugins = ["pytester"]

COUNT = 400
TEXTS = [
    "",
    "text",
    "a\nb\n",
    "\x00\x1b[31m\x7f\x9b",
    "\udcff",
    "\u202e",
    "\n::add-mask::x\n",
    "/etc/passwd",
    "../../etc/passwd",
    "<&>\"'",
    "reprcrash reprtraceback",
    "x" * 5000,
]
_random = random.Random()


def text() -> str:
    return _random.choice(TEXTS)


def maybe(value: Any) -> Any:
    return _random.choice([None, value])


def location() -> dict[str, Any]:
    return {"path": text(), "lineno": _random.choice([-5, 0, 1 << 40]), "message": text()}


def traceback() -> dict[str, Any]:
    style = _random.choice(["short", "long", "native", "value", "line", "no", text()[:50]])
    entry = {
        "type": "ReprEntry",
        "data": {
            "lines": [text() for _ in range(_random.randrange(3))],
            "reprfuncargs": maybe({"args": [[text(), text()]]}),
            "reprlocals": maybe({"lines": [text()]}),
            "reprfileloc": maybe(location()),
            "style": style,
        },
    }
    native = {"type": "ReprEntryNative", "data": {"lines": [text()]}}
    entries = [_random.choice([entry, native]) for _ in range(_random.randrange(3))]
    return {"reprentries": entries, "extraline": maybe(text()), "style": style}


def failure() -> dict[str, Any]:
    chain = [[traceback(), maybe(location()), maybe(text())] for _ in range(_random.randrange(3))]
    return {
        "reprcrash": maybe(location()),
        "reprtraceback": traceback(),
        "sections": [[text(), text(), _random.choice(["-", "ab"])]],
        "chain": maybe(chain),
    }


def report(when: str) -> dict[str, Any]:
    outcome = _random.choice(["passed", "failed", "skipped", "rerun"])
    found: dict[str, Any] = {
        "when": when,
        "outcome": outcome,
        "duration": _random.choice([0, 1.5, 1e10]),
        "start": _random.choice([0, 1e10]),
        "stop": _random.choice([0, 1e10]),
        "keywords": [text()[:1000]],
        "user_properties": [[text(), _random.choice([text(), True, 1.5, None])]],
        "sections": [[_random.choice(["Captured stdout call", "Captured log setup", text()]), text()]],
        "extra": maybe({"extras": [{"content": text()}]}) or {},
    }
    if outcome == "failed":
        found["longrepr"] = _random.choice([text(), failure()])
    elif _random.random() < 0.3:
        found |= {"wasxfail": text(), "longrepr": _random.choice([text(), failure()])}
    elif outcome == "skipped":
        found["skip"] = [text(), 1, text()]
    return found


def subtest() -> dict[str, Any]:
    return report("call") | {"subtest": {"msg": maybe(text()), "kwargs": {"a": text()}}}


def attempt() -> list[dict[str, Any]]:
    """One attempt at a test, which may announce another."""
    setup = report("setup")
    if setup["outcome"] != "passed":
        return [setup, report("teardown")]
    subtests = [subtest() for _ in range(_random.randrange(3)) if pytest.version_tuple >= (9,)]
    return [setup, *subtests, report("call"), report("teardown")]


def record() -> Record:
    attempts = [attempt()]
    while any(each["outcome"] == "rerun" and "subtest" not in each for each in attempts[-1]):
        attempts.append(attempt())
    event = decoded({"event": "record", "test": 0, "attempts": attempts})
    assert isinstance(event, Record)
    return event


def decoded(data: dict[str, Any]) -> events.Event:
    return events.decode(json.dumps(data).encode())


class Loop:
    """Replays made-up records in place of the tests."""

    def __init__(self) -> None:
        self.unreadable = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        replay = Replay(session, Durations(session.config))
        for item in session.items:
            try:
                replay.test(item, record())
            except BrokenEvent:
                self.unreadable += 1
                replay.error(item, "unreadable")
            warned = Warned(
                category=text()[:100],
                base="UserWarning",
                message=text(),
                filename="/etc/passwd",
                lineno=1,
                line="",
                test=0,
            )
            replay.warning(_random.choice([None, item]), warned)
        return True


@pytest.mark.parametrize("style", ["auto", "line", "native"])
def test_reporters_survive_whatever_is_allowed(pytester: pytest.Pytester, style: str) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.parametrize('n', range({COUNT}))\ndef test_it(n): pass\n"
    )
    _random.seed(style)  # so that its records are the same whatever has run before
    loop = Loop()
    result = pytester.runpytest_inprocess(
        *(
            "-rA",
            "-v",
            f"--tb={style}",
            "--durations=5",
            "--junitxml=report.xml",
            "-p",
            "no:asyncio",
            "-W",
            "default",
        ),
        plugins=[loop],
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED, result.stdout.str()[-5000:]
    assert "INTERNALERROR" not in result.stdout.str()
    assert "root:x" not in result.stdout.str()
    assert not set("\x00\x1b\x7f\x9b\u202e") & set(result.stdout.str())
    assert not [line for line in result.stdout.lines if line.lstrip().startswith("::")]
    # pytest has an entry without a name for an attempt that is repeated after a failed subtest, in plain runs as well
    entries = ET.parse("report.xml").iter("testcase")
    names = {case.attrib["name"] for case in entries if "name" in case.attrib}
    assert {name for name in names if name.startswith("test_it")} == names
    assert len(names) == COUNT
    assert loop.unreadable < COUNT / 2
