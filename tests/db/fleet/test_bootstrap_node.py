"""``bootstrap --node``: this machine as its launcher says, another one enrolled, with the line that opens it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management.base import CommandError

from controlplane.fleet import keys
from controlplane.fleet.models import Node
from controlplane.provisioning.management.commands.bootstrap import _node
from controlplane.values.errors import InvalidInput

pytestmark = [pytest.mark.db, pytest.mark.django_db]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTwNX6FUwjZoAN9oxsoaLDpiDUxNgrRCYdhAQ4yGCM8"


def given(**fields: Any) -> dict[str, str | None]:
    return _node(json.dumps({"name": "n1", **fields}))


def test_another_machine_is_enrolled_once_and_changed_later() -> None:
    said = given(connection="ssh", address="192.0.2.7", host_key=KEY, private_address="10.0.0.7")
    node = Node.objects.get()
    assert said == {"node": "n1", "authorized_line": keys.authorized_line(node)}
    assert (node.host_keys, node.instance_network) == ([KEY], "10.0.0.7/32")
    again = given(connection="ssh", address="192.0.2.8", host_key=KEY)
    assert again == said
    assert Node.objects.get().address == "192.0.2.8"
    with pytest.raises(InvalidInput):
        given(address="no address")


def test_this_machine_has_no_key() -> None:
    assert given(connection="local", address="127.0.0.1", instance_network="127.65.1.0/24") == {"node": "n1"}
    assert given(connection="local", memory_mib=512) == {"node": "n1"}
    node = Node.objects.get()
    assert (node.connection, node.key_sealed, node.memory_mib) == ("local", "", 512)
    with pytest.raises(CommandError, match="key_sealed"):
        given(key_sealed="x")
