"""Files that nobody here wrote come in: XEP-0227's own examples, and what the engines' own tools make of real data."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from bench import backup_tools as tools
from controlplane.backups import importing_preview as looking
from controlplane.backups.importing import Control, Taken, take_in
from controlplane.backups.mapping import DomainMapping
from controlplane.drivers.engine.base import EngineDriver
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.portable.bundle import Bundle
from controlplane.portable.unpack import unpack
from controlplane.probes.client import q
from controlplane.values.names import Localpart
from controlplane.values.secret import Secret
from tests.contract.engine import portable_data as data
from tests.contract.engine.features import archive, bodies
from tests.contract.engine.suite import element, local, login, session
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers

EXAMPLES = Path(__file__).parents[2] / "unit/portable/xep0227"
ENGINES: dict[str, tuple[EngineDriver, str]] = {"prosody": (prosody, "127.85"), "ejabberd": (ejabberd, "127.86")}


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[str, World]]:
    with contextlib.ExitStack() as stack:

        class Lazily(dict[str, World]):
            def __missing__(self, name: str) -> World:
                driver, network = ENGINES[name]
                self[name] = stack.enter_context(running_world(driver, network=network, alone=True))
                return self[name]

        yield Lazily()


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> World:
    made = worlds[request.param]
    data.leave(made.acme.control)
    return made


def come_in(world: World, sent: bytes, directory: Path) -> tuple[looking.Preview, Taken]:
    """As an import does it: looked through first, then taken in under the instance's own domain."""
    unpack(io.BytesIO(sent), directory)
    bundle, own = Bundle(directory), world.acme.domain
    hosts = looking.hosts_of(bundle.items(host=own), lambda: None)
    host = own if own in hosts or not hosts else next(iter(hosts))
    control = cast(Control, world.acme.control)
    seen = looking.preview(control, looking.of_host(bundle.items(host=host), host), lambda: None)
    mapping = DomainMapping({host: own}) if host != own else None
    items = looking.of_host(bundle.items(host=host), host)
    return seen, take_in(control, items, root=directory, mapping=mapping)


def tarred(paths: list[Path]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        for path in paths:
            file.add(path, path.name)
    return stream.getvalue()


def exported(world: World, name: str) -> str:
    return world.acme.control.export_user(Localpart(name)).replace('"', "'")


#: Example -> what has to be found in whose export then. The others have no account in them, or nothing but one.
FOUND = {
    "03": {"juliet": []},
    "04": {"juliet": ["Q6qT/SbybblGCZz8e8eSfCJOQic="]},
    "05": {"juliet": ["romeo@montague.net", "<group>Friends</group>"]},
    "06": {"juliet": ["Neither, fair saint"]},
    "07": {"hamlet": ["exodus:prefs", "<defaultnick>Hamlet</defaultnick>"]},
    "08": {"juliet": ["vcard-temp"]},
    "10": {"juliet": ["mercutio@montague.net"]},
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.xml")), ids=lambda path: path.name[:2])
def test_each_example_of_the_standard_comes_in(world: World, path: Path, tmp_path: Path) -> None:
    """Alone, as a document, gzipped; again, nothing is made. What is not carried is told with a reason."""
    seen, taken = come_in(world, gzip.compress(path.read_bytes()), tmp_path / "one")
    assert seen.accounts["new"] == len(world.acme.control.export_accounts())
    assert all(why for _, _, why in taken.not_carried)
    for name, wanted in FOUND.get(path.name[:2], {}).items():
        text = exported(world, name)
        for words in wanted:
            assert words in text, words
    again, taken = come_in(world, path.read_bytes(), tmp_path / "two")
    assert (taken.report.made, taken.report.changed) == (0, 0)
    assert again.accounts["new"] == 0
    assert again.accounts["existing"] == seen.accounts["new"]


def test_the_examples_archive_and_nodes_are_there_for_clients(world: World, tmp_path: Path) -> None:
    for number, name in (("12", "juliet"), ("11", "romeo")):
        (path,) = EXAMPLES.glob(f"{number}-*.xml")
        come_in(world, path.read_bytes(), tmp_path / number)
        world.acme.control.set_password(local(name), Secret("a new one"))

    async def look() -> None:
        async with session(world, world.jid("juliet"), Secret("a new one")) as client:
            assert len(bodies(await archive(client))) >= 1
        async with session(world, world.jid("romeo"), Secret("a new one")) as client:
            nodes = await client.iq(
                "get", world.jid("romeo"), element("query", "http://jabber.org/protocol/disco#items")
            )
            assert nodes.find(q("query", "http://jabber.org/protocol/disco#items")) is not None

    asyncio.run(look())
    assert "urn:xmpp:avatar" in exported(world, "romeo") or "pubsub" in exported(world, "romeo")


def test_a_main_file_comes_with_those_that_it_includes(world: World, tmp_path: Path) -> None:
    """XEP-0227 §5: examples 13 to 15 name each other; what is named and was not given is told."""
    main, host, user = (next(EXAMPLES.glob(f"{n}-*.xml")) for n in (13, 14, 15))
    for number, paths in enumerate(([main], [main, host], [main, host, user])):
        _, taken = come_in(world, tarred(paths), tmp_path / str(number))
        assert taken.not_carried_total > 0


@pytest.fixture(scope="module")
def own_exports(worlds: dict[str, World]) -> dict[str, bytes]:
    """The same organisation, made by clients, as each engine's own tool writes it."""
    return {name: _own_export(name, worlds[name]) for name in ENGINES}


def _own_export(name: str, world: World) -> bytes:
    data.leave(world.acme.control)
    data.fill(world)
    # Not below pytest's own directory: the next run of pytest, of any test, closes that to the engines' users.
    with tempfile.TemporaryDirectory(prefix="own-", dir="/tmp") as place:
        root = Path(place)
        root.chmod(0o755)
        if name == "ejabberd":
            with tools.stock_ejabberd(root / "stock", world.acme.root / "data/ejabberd.sqlite") as control:
                made = root / "piefxis"
                made.mkdir()
                tools.own(made, "ejabberd")
                assert tools.timed([*control, "export_piefxis", str(made)]) is not None
        else:
            made = root / "xep0227"
            copy = root / "data"
            shutil.copytree(world.acme.root / "data", copy, ignore=shutil.ignore_patterns("archive.sqlite*"))
            tools.copied(world.acme.root / "data/archive.sqlite", copy / "archive.sqlite")
            stores = ", ".join(f'"{store}"' for store in tools.ACCOUNT_STORES)
            files = f'type = "internal"; path = "{copy}";'
            base = f'type = "sql"; driver = "SQLite3"; database = "{copy}/archive.sqlite";'
            assert tools.migrated(root, made, files, f'["{tools.DOMAIN}"] = {{ {stores} }};') is not None
            assert tools.migrated(root, made, base, f'["{tools.DOMAIN}"] = {{ "archive-archive" }};') is not None
        return tarred(sorted(made.rglob("*.xml")))


@pytest.mark.parametrize("source", ENGINES)
def test_the_engines_own_exports_come_in(
    world: World, own_exports: dict[str, bytes], source: str, tmp_path: Path
) -> None:
    """Old passwords log in; contacts are there; Prosody's has archives and PEP nodes too, ejabberd's has neither."""
    data.leave(world.acme.control)
    seen, _ = come_in(world, own_exports[source], tmp_path / "one")
    assert seen.accounts["new"] >= 4
    again, second = come_in(world, own_exports[source], tmp_path / "two")
    assert (second.report.made, second.report.changed) == (0, 0)
    assert (again.accounts["new"], again.accounts["existing"]) == (0, seen.accounts["new"])
    for name, password in (("ann", None), ("bob", None), ("away", data.AWAY)):
        login(world, world.jid(name), *([] if password is None else [password]))
    ann = exported(world, "ann")
    for words in ("bob@acme.example", "carol@globex.example", "Ärger &amp; Co", "exodus:prefs"):
        assert words in ann, words
    if source == "prosody":
        assert data.DEVICES in ann
        assert data.BUNDLE in ann
        assert set(data.WORDS) <= set(asyncio.run(_archived(world)))


async def _archived(world: World) -> list[str]:
    async with session(world, world.jid("ann")) as client:
        return bodies(await archive(client))
