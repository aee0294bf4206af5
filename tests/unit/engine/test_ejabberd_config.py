"""ejabberd's configuration from hostile specs: read back, it has the same shape and the very strings of the spec."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drivers.engine.ejabberd import config, driver
from controlplane.values.names import DomainName, Jid, Localpart
from controlplane.values.secret import Secret
from controlplane.values.spec import SERVICE_OFFSETS, Components, Contact, InstanceSpec, Limits, Listen, Paths, Turn

DOMAIN = DomainName.parse("acme.example")
SPEC = InstanceSpec(
    key="acme1234",
    engine="ejabberd",
    domain=DOMAIN,
    components=Components.below(DOMAIN),
    listen=Listen("127.62.200.1", 7000, 20001),
    paths=Paths(PurePosixPath("/srv/roost/acme1234")),
    turn=Turn(DomainName.parse("turn.example"), 3478, Secret("s3cret"), "acme1234", tls_port=5349),
    limits=Limits(),
    display_name="Acme",
    contacts=(Contact("abuse", "mailto:abuse@acme.example"),),
    edge_addresses=("127.62.0.1", "::1"),
    resolver="127.62.0.53@5353",
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


def read(spec: InstanceSpec) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(config.render(spec), Loader=yaml.CSafeLoader)
    return found


def shape(value: Any) -> Any:
    """The value without its leaves."""
    match value:
        case dict():
            return {key: shape(inner) for key, inner in value.items()}
        case list():
            return [shape(inner) for inner in value]
    return type(value)


@given(name=texts, uri=texts, secret=texts, label=texts, local=texts, language=texts)
def test_hostile_strings_stay_where_they_belong(
    name: str, uri: str, secret: str, label: str, local: str, language: str
) -> None:
    turn = dataclasses.replace(SPEC.turn, secret=Secret(secret), label=label)  # type: ignore[type-var]
    base = dataclasses.replace(SPEC, admins=(Jid(Localpart("a"), DOMAIN),))
    spec = dataclasses.replace(
        base,
        display_name=name,
        language=language,
        turn=turn,
        contacts=(Contact("abuse", uri),),
        admins=(Jid(Localpart(local), DOMAIN),),
    )
    found = read(spec)
    assert shape(found) == shape(read(base))
    assert found["modules"]["mod_disco"]["name"] == config.plain_text(name)
    assert found["modules"]["mod_disco"]["server_info"][0]["urls"] == [config.plain_text(uri)]
    assert {service["secret"] for service in found["modules"]["mod_roost"]["turn"]} == {secret}
    assert {service["label"] for service in found["modules"]["mod_roost"]["turn"]} == {label}
    assert found["acl"]["admin"]["user"] == [f"{local}@acme.example"]
    assert found["language"] == found["modules"]["mod_muc"]["default_room_options"]["lang"] == language


def test_xml_can_carry_what_is_shown() -> None:
    assert config.plain_text("a\x00b\x0b\ufffe\x1bc\td\n😀") == "abc\td\n😀"


def test_every_port_is_the_edges_alone() -> None:
    listeners = {listener["port"]: listener for listener in read(SPEC)["listen"]}
    assert sorted(listeners) == sorted(SPEC.listen.port(service) for service in SERVICE_OFFSETS)
    for listener in listeners.values():
        assert listener["ip"] == SPEC.listen.address
        assert listener["module"].startswith("roost_edge_")
        assert listener["edge_addresses"] == list(SPEC.edge_addresses)
    tls = {service for service in SERVICE_OFFSETS if listeners[SPEC.listen.port(service)].get("tls")}
    assert tls == {"c2s_tls", "s2s_tls", "https"}
    assert listeners[SPEC.listen.port("c2s")]["starttls_required"] is True


@pytest.mark.parametrize(("port", "wanted"), [(443, "https://acme.example"), (8443, "https://acme.example:8443")])
def test_urls_name_the_public_port(port: int, wanted: str) -> None:
    modules = read(dataclasses.replace(SPEC, public_https_port=port))["modules"]
    assert modules["mod_http_upload"]["put_url"] == f"{wanted}/upload"
    assert modules["mod_host_meta"]["bosh_service_url"] == f"{wanted}/http-bind"
    assert modules["mod_host_meta"]["websocket_url"] == f"{wanted.replace('https', 'wss')}/xmpp-websocket"


def test_everything_lies_below_the_root() -> None:
    found = read(SPEC)
    root = str(SPEC.paths.root)
    for path in (
        *(found["sql_database"], *found["certfiles"], found["ca_file"], found["s2s_cafile"]),
        *(found["modules"]["mod_http_upload"]["docroot"], found["modules"]["mod_roost"]["control_socket"]),
    ):
        assert path.startswith(root + "/")
    for file in driver.files(SPEC):
        assert file.path.startswith("config/")
        assert ".." not in file.path


def test_no_turn_no_announcement() -> None:
    assert read(dataclasses.replace(SPEC, turn=None))["modules"]["mod_roost"]["turn"] == []


@pytest.mark.parametrize(
    ("resolver", "line"),
    [
        ("127.62.0.53", "{nameserver, {127,62,0,53}, 53}."),
        ("127.62.0.53@5353", "{nameserver, {127,62,0,53}, 5353}."),
        ("2001:db8::53@53", "{nameserver, {8193,3512,0,0,0,0,0,83}, 53}."),
    ],
)
def test_the_resolver_is_the_tenants_only_one(resolver: str, line: str) -> None:
    lines = config.render_inetrc(dataclasses.replace(SPEC, resolver=resolver)).splitlines()
    assert line in lines
    assert '{resolv_conf, ""}.' in lines
    assert "nameserver" not in config.render_inetrc(dataclasses.replace(SPEC, resolver=None))


@pytest.mark.parametrize("resolver", ["", "x", '1.2.3.4}. {file, "x"', "1.2.3.4@x", "1.2.3.4@53, x"])
def test_what_is_no_resolver_is_refused(resolver: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        config.render_inetrc(dataclasses.replace(SPEC, resolver=resolver))


def test_rendering_is_pure() -> None:
    assert driver.files(SPEC) == driver.files(SPEC)
    assert driver.program(SPEC) == driver.program(SPEC)


def test_what_a_change_costs() -> None:
    """Only the resolver and our own modules need a restart."""
    changes = {file.path: file.on_change for file in driver.files(SPEC)}
    assert changes.pop("config/ejabberd.yml") == "reload"
    assert changes.pop("config/inetrc") == "restart"
    assert {path.rpartition("/")[0] for path in changes} == {"config/modules"}
    assert set(changes.values()) == {"restart"}


def test_time_outs_of_links_are_in_seconds() -> None:
    """ejabberd takes plain numbers for seconds; as milliseconds they were a thousand times too long, and no error."""
    found = yaml.safe_load(config.render(SPEC))
    assert 0 < found["s2s_dns_timeout"] * found["s2s_dns_retries"] < 10
    assert 5 <= found["outgoing_s2s_timeout"] <= 10
    assert 0 < found["s2s_max_retry_delay"] <= 5
    assert found["negotiation_timeout"] == 30
    assert found["s2s_timeout"] == 3600


def test_links_are_published_by_wish_alone() -> None:
    def modules(publish_links: bool) -> set[str]:
        return set(yaml.safe_load(config.render(dataclasses.replace(SPEC, publish_links=publish_links)))["modules"])

    assert modules(True) - modules(False) == {"mod_roost_serverinfo"}
    assert modules(False) <= modules(True)


def test_no_secret_is_on_the_command_line() -> None:
    program = driver.program(SPEC)
    assert not [text for text in (*program.argv, *(v for _, v in program.env)) if "s3cret" in text]
