"""A stock Prosody that keeps its data by its own mod_storage_xep0227: the files that it writes are read."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from controlplane.portable import facts
from controlplane.portable.bundle import Bundle
from controlplane.portable.items import ArchivePage, NotCarried, UserRead
from tests.contract.probes.world import running, wait_for

pytestmark = pytest.mark.servers

HOST = "elsewhere.example"
CONFIG = """
data_path = "{0}/data"; pidfile = "{0}/pid"; plugin_paths = {{ "{0}" }}; log = {{ info = "*console" }}
storage = "xep0227"; authentication = "internal_hashed"; interfaces = {{ "127.57.0.2" }}
c2s_ports = {{ 0 }}; s2s_ports = {{}}; http_ports = {{}}; https_ports = {{}}
run_as_root = true; modules_disabled = {{ "s2s", "c2s", "offline", "posix" }}; modules_enabled = {{ "fill" }}
VirtualHost "elsewhere.example"
"""
#: Through the storage API that Prosody's modules and its migrator use.
FILL = """
local st, um = require "util.stanza", require "core.usermanager";
local function set(name, user, data) assert(module:open_store(name):set(user, data)); end
module:add_timer(0.1, function ()
    for _, user in ipairs({ "anna", "bert" }) do assert(um.create_user(user, "geheim 1", module.host)); end
    set("vcard", "anna", st.preserialize(st.stanza("vCard", { xmlns = "vcard-temp" }):text_tag("FN", "Ännchen & Co")));
    set("private", "anna", { ["a:urn:a"] = st.preserialize(st.stanza("a", { xmlns = "urn:a" }):text("<b>")) });
    set("roster", "anna", { [false] = { version = 3, pending = { ["asks@b.example"] = true } },
        ["zoe@b.example"] = { subscription = "both", name = "Z 'z'", groups = { Friends = true, ["Ü"] = true } } });
    set("pep", "anna", { ["urn:x"] = { name = "urn:x", config = { access_model = "open" },
        affiliations = { ["c@b.example"] = "member" }, subscribers = { ["d@b.example"] = true } } });
    local items = module:open_store("pep_urn:x", "archive");
    assert(items:append("anna", "current", st.stanza("k", { xmlns = "urn:k" }):text("v"), os.time(), "anna"));
    local archive = module:open_store("archive", "archive");
    for n = 1, 3 do
        local message = st.message({ from = "bert@elsewhere.example/x", to = "anna@elsewhere.example" }, "no " .. n);
        assert(archive:append("anna", "id" .. n, message, 1700000000 + n, "bert@elsewhere.example"));
    end
    io.open(module:get_option_string("data_path") .. "/filled", "w"):close();
end);
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("prosody")
    (directory / "data").mkdir()
    (directory / "mod_fill.lua").write_text(FILL)
    (directory / "prosody.cfg.lua").write_text(CONFIG.format(directory))
    argv = ["prosody", "-F", "--config", str(directory / "prosody.cfg.lua")]
    with running(argv, directory) as process:
        wait_for("Prosody", (directory / "data/filled").exists, process=process)
    (directory / "data/filled").unlink()
    return directory / "data"


def test_its_files_are_taken_in(root):
    assert sorted(path.name for path in root.glob("*.xml")) == [f"anna@{HOST}.xml", f"bert@{HOST}.xml"]
    items = list(Bundle(root).items())
    users = [item for item in items if isinstance(item, UserRead)]
    assert [(user.host, user.name) for user in users] == [(HOST, "anna"), (HOST, "bert")]
    found = {(f.kind, f.what, f.value) for user in users if user.name == "anna" for f in facts.of_user(user.xml)}
    assert {(kind, what) for kind, what, _ in found} >= {
        ("account", ""), ("credentials", "SCRAM-SHA-1"), ("vCard", ""), ("private storage", "{urn:a}a"),
        ("request", "asks@b.example"), ("PEP node", "urn:x"), ("PEP item", "urn:x current"),
    }  # fmt: skip
    assert found >= {
        ("contact", "zoe@b.example", repr(("Z 'z'", "both", "", False, ["Friends", "Ü"]))),
        ("PEP setting", "urn:x pubsub#access_model", "['open']"),
        ("PEP setting", "urn:x pubsub#notify_delete", "['1']"),
        ("PEP affiliation", "urn:x c@b.example", "member"),
        ("PEP subscription", "urn:x d@b.example", "subscribed"),
    }
    assert "pubsub#max_items" not in users[0].xml, "a field without a value is not set"
    pages = [item for item in items if isinstance(item, ArchivePage)]
    messages = [facts.of_message(text) for page in pages for text in page.items]
    assert [(message.what, message.day) for message in messages] == [(f"id{n}", "2023-11-14") for n in (1, 2, 3)]
    assert {item.what for item in items if isinstance(item, NotCarried)} <= {"attribute created", "attribute updated"}


def test_its_passwords_log_in(root):
    """The keys are those that RFC 5802 §3 makes of the password."""
    user = next(item for item in Bundle(root).items() if isinstance(item, UserRead))
    (value,) = [fact.value for fact in facts.of_user(user.xml) if fact.kind == "credentials"]
    rounds, _, salt, _, server, _, stored = value.split(" ")
    salted = hashlib.pbkdf2_hmac("sha1", b"geheim 1", bytes.fromhex(salt), int(rounds))
    assert bytes.fromhex(server) == hmac.digest(salted, b"Server Key", "sha1")
    assert bytes.fromhex(stored) == hashlib.sha1(hmac.digest(salted, b"Client Key", "sha1")).digest()
