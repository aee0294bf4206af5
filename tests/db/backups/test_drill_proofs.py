"""What a drill finds: everything if all is there, and each kind of damage that a repository can have.

The backup is of one real engine, goes through a real repository, and is restored into another real engine.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.backups import building, sampling
from controlplane.backups.attempt import Attempt
from controlplane.backups.building import Built
from controlplane.backups.models import Backup, Drill, Repository
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.drivers.store.base import Damaged
from controlplane.values.names import DomainName, Jid, Localpart
from tests.contract.engine import portable_data as data
from tests.contract.engine.suite import PASSWORD, login
from tests.db.backups import proofs
from tests.servers.engine import World, running_world

pytestmark = [pytest.mark.db, pytest.mark.servers, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def living() -> Iterator[World]:
    with running_world(prosody, network="127.186") as world:
        data.fill(world)
        yield world


@pytest.fixture(scope="module", params=["prosody", "ejabberd"])
def aside(request: pytest.FixtureRequest) -> Iterator[World]:
    """An engine that is cut off from everything, of both makes: a scratch."""
    driver, network = {"prosody": (prosody, "127.187"), "ejabberd": (ejabberd, "127.188")}[request.param]
    with running_world(driver, network=network) as world:
        proofs.isolate(world.acme)
        yield world


@pytest.fixture
def empty(aside: World) -> World:
    data.leave(aside.acme.control)
    return aside


@pytest.fixture
def repository(tmp_path: Path, settings) -> Repository:
    settings.ROOST = {**settings.ROOST, "SPOOL_DIR": str(tmp_path / "spool")}
    return proofs.repository_of(proofs.instance_of("acme.example"), tmp_path)


def built(backup: Backup, world: World) -> Built:
    drill = Drill.objects.create(repository=backup.repository, backup=backup, state=Drill.PASSED)
    attempt = Attempt(drill, proofs.leased("Drill", drill.key))
    return building.build(backup, proofs.site_of(world.acme), attempt)


def test_all_is_there_and_clients_see_it(repository: Repository, living: World, empty: World, tmp_path: Path) -> None:
    backup = proofs.backup_of(repository, living.acme, tmp_path)
    found = built(backup, empty)
    assert found.compared.words == []
    assert found.compared.total == 0
    assert found.checked["affiliation"] == len(data.ROOMS) * len(data.AFFILIATED)
    assert found.checked["contact"] > 0
    assert found.checked["user message"] > 0
    again = built(backup, empty)
    assert (again.compared.total, again.taken.report.made, again.taken.report.changed) == (0, 0, 0)
    site = proofs.site_of(empty.acme)
    seen = sampling.look(site, DomainName(empty.acme.domain), roots=empty.roots_pem, chance=random.Random(7))
    assert seen.differences == []
    assert seen.checked["login"] == sampling.ACCOUNTS
    assert any(what.startswith("PEP items") and number for what, number in seen.checked.items())


def test_a_client_misses_what_the_engine_hides(
    repository: Repository, living: World, empty: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look as a client can fail: it is shown another roster than the engine tells of."""
    built(proofs.backup_of(repository, living.acme, tmp_path), empty)
    honest = sampling._contacts

    async def fewer(client, name):
        return (await honest(client, name))[1:]

    monkeypatch.setattr(sampling, "_contacts", fewer)
    monkeypatch.setattr(sampling, "ACCOUNTS", 50)
    site = proofs.site_of(empty.acme)
    seen = sampling.look(site, DomainName(empty.acme.domain), roots=empty.roots_pem)
    assert any(re.fullmatch(r"contacts of ann: a client does not see 1 of \d+", one) for one in seen.differences)


def test_one_flipped_byte_in_the_repository_is_found(
    repository: Repository, living: World, empty: World, tmp_path: Path
) -> None:
    backup = proofs.backup_of(repository, living.acme, tmp_path)
    packs = [path for path in (Path(repository.url) / "data").rglob("*") if path.is_file()]
    largest = max(packs, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 3] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(content)
    with pytest.raises(Damaged):
        built(backup, empty)


def test_one_contact_too_few_is_found_by_name(
    repository: Repository, living: World, empty: World, tmp_path: Path
) -> None:
    """The bundle is whole in itself, and one contact of it is not there: only the oracle can know."""

    def without_bob(bundle: Path) -> None:
        (part,) = bundle.glob("accounts-*.xml")
        text = part.read_text()
        changed = re.sub(r"<item (?=[^>]*jid='carol@globex\.example')[^>]*?(/>|>.*?</item>)", "", text, count=1)
        assert changed != text
        part.write_text(changed)
        reseal(bundle)

    backup = proofs.backup_of(repository, living.acme, tmp_path, tamper=without_bob)
    found = built(backup, empty)
    assert found.compared.missing.kinds == {"contact": 1}
    assert found.compared.words == ["contact carol@globex.example of ann: missing"]


def test_yesterdays_snapshot_in_place_of_todays_is_found(
    repository: Repository, living: World, empty: World, tmp_path: Path
) -> None:
    yesterday = proofs.backup_of(repository, living.acme, tmp_path)
    control, room = living.acme.control, Localpart("board")
    control.set_affiliation(room, Jid.parse("newcomer@acme.example"), "member")
    try:
        today = proofs.backup_of(repository, living.acme, tmp_path)
    finally:
        control.set_affiliation(room, Jid.parse("newcomer@acme.example"), "none")
    Backup.objects.filter(pk=today.pk).update(snapshot=yesterday.snapshot)
    today.refresh_from_db()
    found = built(today, empty)
    assert found.compared.words == ["affiliation newcomer@acme.example of board: missing"]


def test_old_passwords_log_in(repository: Repository, living: World, empty: World, tmp_path: Path) -> None:
    built(proofs.backup_of(repository, living.acme, tmp_path), empty)
    empty.acme.change(isolated=False, edge_addresses=(empty.acme.edge,))
    try:
        login(empty, empty.jid("bob"), PASSWORD)
        login(empty, empty.jid("away"), data.AWAY)
    finally:
        proofs.isolate(empty.acme)


def reseal(bundle: Path) -> None:
    """Digests for what is there now, as somebody who knows the format would make them."""
    sums, manifest = bundle / "SHA256SUMS", bundle / "roost.json"
    lines = [line.partition("  ")[2] for line in sums.read_text().splitlines()]
    made = "".join(f"{hashlib.sha256((bundle / path).read_bytes()).hexdigest()}  {path}\n" for path in lines)
    sums.write_text(made)
    body = json.loads(manifest.read_text())
    body["sha256sums"] = hashlib.sha256(made.encode()).hexdigest()
    manifest.write_text(json.dumps(body))
