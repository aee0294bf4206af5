"""What our engines really hand out goes into a bundle and comes out of it as it was, and they take it for their own."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator

import pytest

from controlplane.drivers.engine.base import ImportReport, PortableControl
from controlplane.drivers.engine.ejabberd import driver as ejabberd
from controlplane.drivers.engine.prosody import driver as prosody
from controlplane.portable import facts
from controlplane.portable.bundle import Bundle
from controlplane.portable.items import ArchivePage, Item, RoomRead, UserRead
from controlplane.portable.manifest import About
from controlplane.portable.sinks import Tar
from controlplane.portable.tally import Tally
from controlplane.portable.unpack import unpack
from controlplane.portable.writer import Writer
from controlplane.values.names import Localpart
from tests.contract.engine import portable_data as data
from tests.servers.engine import World, running_world

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", params=[prosody, ejabberd], ids=["prosody", "ejabberd"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with running_world(request.param, network="127.58" if request.param is prosody else "127.59") as made:
        data.fill(made)
        yield made


def archive(control: PortableControl, **whose: Localpart) -> Iterator[str]:
    cursor = ""
    while True:
        items, cursor = control.export_archive(**whose, cursor=cursor, limit=3)
        yield from items
        if not cursor:
            return


def write(control: PortableControl, writer: Writer, tally: Tally) -> None:
    """Everything but files, into the bundle and, as it came from the engine, into the tally."""

    def counted(items: Iterator[str], **whose: str) -> Iterator[str]:
        for item in items:
            tally.add([facts.of_message(item, **whose)])
            yield item

    for name in control.export_accounts():
        xml = control.export_user(Localpart(name))
        tally.add(facts.of_user(xml))
        writer.add_user(xml, counted(archive(control, owner=Localpart(name)), owner=name))
    for name in control.export_rooms():
        xml = control.export_room(Localpart(name))
        tally.add(facts.of_room(xml))
        writer.add_room(xml, counted(archive(control, room=Localpart(name)), room=name))


def take_in(control: PortableControl, item: Item) -> ImportReport:
    match item:
        case UserRead():
            return control.import_user(item.xml)
        case RoomRead():
            return control.import_room(item.xml)
        case ArchivePage(room=None, owner=str(owner)):
            return control.import_archive(item.items, owner=Localpart(owner))
        case ArchivePage(room=str(room)):
            return control.import_archive(item.items, room=Localpart(room))
    raise AssertionError(f"not expected: {item}")


FACTS: dict[type, Callable[[Item], Iterator[facts.Fact]]] = {
    UserRead: lambda item: facts.of_user(item.xml),
    RoomRead: lambda item: facts.of_room(item.xml),
    ArchivePage: lambda item: (facts.of_message(text, owner=item.owner, room=item.room) for text in item.items),
}


def test_an_engines_own_data_comes_back_as_it_was(world, tmp_path):
    control: PortableControl = world.acme.control
    spec = world.acme.spec
    about = About(
        spec.domain.ascii,
        datetime.datetime.now(datetime.UTC).isoformat(),
        {"muc": spec.components.muc.ascii, "upload": spec.components.upload.ascii},
    )
    stream = io.BytesIO()
    with Tally() as wanted, Tally() as found:
        with Writer(Tar(stream), about, part_bytes=5_000) as writer:
            write(control, writer, wanted)
        stream.seek(0)
        unpack(stream, tmp_path / "bundle")
        bundle = Bundle(tmp_path / "bundle")
        bundle.check()
        report = ImportReport()
        for item in bundle.items():
            found.add(FACTS[type(item)](item))
            report += take_in(control, item)
        assert list(wanted.differences(found)) == []
        counts = wanted.counts()
        assert counts["PEP item"] >= 5
        assert counts["user message"] == bundle.manifest.counts["user_messages"] >= len(data.WORDS)
        assert counts["room message"] >= len(data.WORDS)
        assert counts["affiliation"] >= len(data.AFFILIATED)
        # What an engine says of its own words, unbundled, it says of the bundle: it sees no difference.
        assert report == data.take_in(control, data.exported(control))
        assert (report.made, report.changed) == (0, 0)
