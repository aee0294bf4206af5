"""Faults that a live service meets: each is noticed, named rightly, healed or told, and over by itself.

All are made in the real stack. Those of different tenants and servers happen side by side, as in life; those that
concern everybody come alone. The seconds are printed and never asserted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import noticed_faults as faults
from tests.faults.noticed_prober import own_prober
from tests.faults.noticed_story import HEAD, Fault, Story, now_of, tell
from tests.servers.receiver import Receiver, receiver
from tests.stack.live import Live, Tenant, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

SIDE_BY_SIDE = (
    *("engine killed", "engine hung", "certificate expired", "wrong certificate", "DNS record removed"),
    *("coturn stopped", "coturn with the wrong secret", "relay range closed", "disk full", "clock off"),
)
#: What no software can mend from here: somebody is told.
TOLD = ("coturn", "relay", "disk full", "clock off", "DNS server")
QUIET_S = 20.0
#: A link that failed again and again is dialled after 300 s at most, give or take a fifth.
CALM_S = 400.0


@pytest.fixture(scope="module")
def alerts(live: Live) -> Iterator[Receiver]:
    """The provider's own webhook."""
    with receiver() as box:
        row = live.api.post("subscriptions/", {"kind": "webhook", "target": box.url()})
        yield box
        live.api.ask("DELETE", f"subscriptions/{row['number']}/")


@pytest.fixture(scope="module")
def patients(live: Live, tenants: dict[str, Tenant]) -> Iterator[dict[str, Tenant]]:
    """Tenants of their own for what would leave the others something to remember; looked at by the prober already."""
    engines = {"ada": "prosody", "ben": "ejabberd", "cleo": "prosody", "dan": "ejabberd"}
    found = {name: live.want(f"fault-{name}", engine) for name, engine in engines.items()}
    live.ready(*found.values())
    everybody = [*found.values(), *tenants.values()]
    until(lambda: all(walked(live, tenant) for tenant in everybody), "the prober has walked through all of them")
    yield found
    live.terminate(*found.values())


def walked(live: Live, tenant: Tenant) -> bool:
    """Whether a full round has found it well."""
    return bool(
        live.rows(
            "SELECT 1 FROM monitoring_checkstate c JOIN tenants_instance i ON i.id = c.instance_id "
            "WHERE i.key = %s AND c.check_name = 'turn' AND c.state = 'up'",
            tenant.key,
        )
    )


@pytest.fixture(scope="module")
def stories(
    live: Live, tenants: dict[str, Tenant], patients: dict[str, Tenant], alerts: Receiver
) -> Iterator[dict[str, Story | Exception]]:
    """Name -> what became of the fault; filled by the first test that wants one."""
    ada, ben, cleo, dan = patients.values()
    chains: list[list[Callable[[], Fault]]] = [
        [
            lambda: faults.certificate_expired(live, ada),
            lambda: faults.hung(live, ada),
            lambda: faults.clock_off(live, ada),
        ],
        [lambda: faults.hung(live, ben), lambda: faults.killed(live, ben)],
        [
            lambda: faults.disk_full(live, cleo),
            lambda: faults.wrong_certificate(live, cleo, tenants["prosody"]),
            lambda: faults.killed(live, cleo),
        ],
        [
            lambda: faults.record_removed(live, dan),
            lambda: faults.wrong_certificate(live, dan, tenants["ejabberd"]),
        ],
        [
            lambda: faults.turn_stopped(live, tenants["prosody"]),
            lambda: faults.turn_wrong_secret(live, tenants["prosody"]),
            lambda: faults.relay_closed(live, tenants["prosody"]),
        ],
    ]
    told: dict[str, Story | Exception] = {}

    def one_after_the_other(chain: list[Callable[[], Fault]]) -> None:
        for make in chain:
            fault = make()
            try:
                told[fault.name] = tell(live, fault)
            except Exception as error:  # noqa: BLE001  # the test of this fault says it
                told[fault.name] = error
            print(told[fault.name].row if isinstance(told[fault.name], Story) else f"{fault.name}: {told[fault.name]}")

    with ThreadPoolExecutor(len(chains)) as pool:
        list(pool.map(one_after_the_other, chains))
    yield told
    table = "\n".join([HEAD, *(story.row for story in told.values() if isinstance(story, Story))])
    print(f"\n{table}")
    (live.state / "reports" / "noticed.txt").write_text(f"{table}\n")  # where it is found although all went well


def right(story: Story | Exception, *, told: bool) -> None:
    if isinstance(story, Exception):
        raise story
    assert story.cause in story.fault.causes, (story.title, story.entries)
    types = [type for type, _ in story.entries]
    assert types[0] == "Noticed"
    assert types[-1] == "Ended"
    assert story.notices == ["incident.opened", "incident.ended"]
    if told:
        assert story.cleared_s is not None
    else:
        assert "Acted" in types
        assert story.healed_s is not None


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_it_is_noticed_named_and_over_by_itself(live: Live, stories: dict[str, Story | Exception], name: str) -> None:
    found = {full: story for full, story in stories.items() if full.startswith(name)}
    assert found
    for story in found.values():
        right(story, told=name.startswith(TOLD))
        assert isinstance(story, Story)
        # The organisation is told which of its servers it is.
        key = story.fault.subject.split(":")[1]
        (domain,) = [row["domain"] for row in live.api.all("instances/") if row["key"] == key]
        assert story.title.startswith(domain)


def test_the_name_server_is_down(
    live: Live, stories: dict[str, Story | Exception], tenants: dict[str, Tenant], patients: dict[str, Tenant]
) -> None:
    """Everybody's names are gone: one incident for each, of the one cause, and nothing else."""
    began = now_of(live)
    story = stories["DNS server down"] = tell(live, faults.name_server_down(live, tenants["prosody"]))
    right(story, told=True)
    until(lambda: all_is_well(live), "all others ended, too", timeout_s=CALM_S)
    causes = live.rows("SELECT DISTINCT cause FROM monitoring_incident WHERE started_at > %s AND kind = 'check'", began)
    assert causes == [("DnsServerDown",)]


def all_is_well(live: Live) -> bool:
    """No incident is open; which ones are, a failure says."""
    assert live.rows("SELECT subject, cause, title FROM monitoring_incident WHERE ended_at IS NULL") == []
    return True


def test_a_prober_that_is_cut_off_says_so_and_nothing_else(
    live: Live, stories: dict[str, Story | Exception], patients: dict[str, Tenant]
) -> None:
    with own_prober(live) as wall:
        until(lambda: all_is_well(live), "nothing is wrong", timeout_s=CALM_S)
        began = now_of(live)
        cut = Fault(
            "prober cut off", "^prober:", frozenset({"ProberCutOff"}), wall.build, mend=lambda: held(live, wall.remove)
        )
        story = stories[cut.name] = tell(live, cut)
        time.sleep(6)  # and those that were doubtful are looked at again
    right(story, told=True)
    assert (
        live.rows("SELECT subject, cause FROM monitoring_incident WHERE noticed_at > %s AND kind <> 'prober'", began)
        == []
    )


def held(live: Live, undo: Callable[[], None]) -> None:
    """Long enough for whoever would judge by what he does not see."""
    time.sleep(15)
    undo()


def test_in_quiet_nothing_is_an_incident(live: Live, stories: dict[str, Story | Exception]) -> None:
    until(lambda: all_is_well(live), "nothing is wrong", timeout_s=CALM_S)
    ((before,),) = live.rows("SELECT count(*) FROM monitoring_sample")
    began = now_of(live)
    time.sleep(QUIET_S)
    ((after,),) = live.rows("SELECT count(*) FROM monitoring_sample")
    assert after > before
    assert live.rows("SELECT subject, cause FROM monitoring_incident WHERE noticed_at > %s", began) == []
