"""From one engine to the other and back: nothing is lost, and what one of them has no place for travels along."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pytest

from controlplane.drivers.engine.base import EngineDriver, PortableControl
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.probes.client import q
from tests.contract.engine import portable_data as data
from tests.contract.engine.suite import PASSWORD, login
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers

ENGINES: dict[str, tuple[EngineDriver, str]] = {"prosody": (prosody, "127.180"), "ejabberd": (ejabberd, "127.181")}
#: Each engine has settings of its own, and says all of them.
SETTINGS = (q("configure", data.OWNER), q("x", data.DATA))
PASSWORDS = {"ann": PASSWORD, "bob": PASSWORD, "away": data.AWAY}


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[str, World]]:
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(running_world(driver, network=network))
            for name, (driver, network) in ENGINES.items()
        }


def portable(world: World) -> PortableControl:
    return cast(PortableControl, world.acme.control)


Kinds = dict[str, Counter[str]]


def lost(before: Kinds, after: Kinds) -> Kinds:
    return {kind: gone for kind in before if (gone := before[kind] - after.get(kind, Counter()))}


def without_settings(kinds: Kinds) -> Kinds:
    return {kind: pieces for kind, pieces in kinds.items() if not kind.startswith(SETTINGS)}


@pytest.mark.parametrize(("first", "second"), [("prosody", "ejabberd"), ("ejabberd", "prosody")])
def test_there_and_back_again(worlds: dict[str, World], first: str, second: str) -> None:
    one, other = worlds[first], worlds[second]
    for world in (one, other):
        data.leave(world.acme.control)
    data.fill(one)
    before = data.exported(portable(one))
    report = data.take_in(portable(other), before)
    assert (report.changed, report.skipped) == (0, 0), report
    there = data.exported(portable(other))
    assert lost(data.everything(before), data.everything(there)) == {}
    assert lost(without_settings(data.everything(there)), data.everything(before)) == {}
    again = data.take_in(portable(other), before)
    assert (again.made, again.changed, again.skipped) == (0, 0, 0)
    for name, password in PASSWORDS.items():
        login(other, other.jid(name), password)
    data.leave(one.acme.control)
    data.take_in(portable(one), there)
    back = data.exported(portable(one))
    assert lost(data.everything(before), data.everything(back)) == {}
    assert lost(without_settings(data.everything(back)), data.everything(before)) == {}
    for name, password in PASSWORDS.items():
        login(one, one.jid(name), password)
