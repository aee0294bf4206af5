"""The control plane's own SSH keys, one pair per node, so that a key that leaks opens one machine.

Private parts are sealed as all secrets are; whoever opens a line gets one for the moment.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from controlplane import vault
from controlplane.fleet.models import Node
from controlplane.values.secret import Secret

#: Before a key of ours in authorized_keys: it opens connections for commands and sockets, and nothing else.
OPTIONS = "restrict,port-forwarding"


def context_of(node: Node) -> str:
    """What a node's sealed keys are bound to."""
    return f"node-key:{node.name}"


def comment_of(node: Node) -> str:
    """The end of our lines in the node's authorized_keys; no other line is ever touched."""
    return f"roost:{node.name}"


def make_pair(node: Node) -> tuple[str, str]:
    """A new key pair: the public line (with our comment) and the private part, sealed for this node."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return f"{public} {comment_of(node)}", vault.seal(context_of(node), Secret(private))


def private_key(node: Node) -> Secret | None:
    """The key that opens the node now; None if it has none (it is this machine). ``Rejected`` if it is sealed off."""
    return vault.unseal(context_of(node), node.key_sealed) if node.key_sealed else None


def next_private_key(node: Node) -> Secret | None:
    """The key that is about to replace it."""
    return vault.unseal(context_of(node), node.next_key_sealed) if node.next_key_sealed else None


def authorized_line(node: Node) -> str:
    """What belongs into the node's authorized_keys; empty if it has no key of ours."""
    return line_of(node.public_key)


def line_of(public_key: str) -> str:
    """The line of authorized_keys for a public key (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
    return f"{OPTIONS} {public_key}" if public_key else ""
