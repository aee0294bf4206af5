"""What ``./roost up --monitoring`` writes is what Prometheus and Alertmanager take."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from launcher import keys, monitoring
from launcher.layout import Layout

CLONE = Path(__file__).resolve().parents[3]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Files are nobody else's here: whose they are on a machine is the stack's tests' matter."""
    monkeypatch.setattr("launcher.files.os.chown", lambda *_: None)
    monkeypatch.setattr("launcher.files.pwd.getpwnam", lambda _: type("u", (), {"pw_uid": 0})())
    monkeypatch.setattr("launcher.files.grp.getgrnam", lambda _: type("g", (), {"gr_gid": 0})())
    return Layout(CLONE, tmp_path, tmp_path, 77)


def kept() -> keys.Secrets:
    return keys.Secrets(django="", powerdns="", master_key="", operator_password="", token="", metrics="the-token")


def test_prometheus_takes_it(layout: Layout) -> None:
    monitoring.prepare(layout, kept())
    argv = ["promtool", "check", "config", str(layout.state / "monitoring" / "prometheus.yml")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 rule files found" in done.stdout
    assert (layout.state / "monitoring" / "token").read_text() == "the-token"
    assert "the-token" not in (layout.state / "monitoring" / "prometheus.yml").read_text()


def test_alertmanager_takes_it(layout: Layout) -> None:
    monitoring.prepare(layout, kept())
    argv = ["amtool", "check-config", str(layout.state / "monitoring" / "alertmanager.yml")]
    assert subprocess.run(argv, capture_output=True, timeout=60).returncode == 0


def test_a_changed_rule_restarts_them(layout: Layout) -> None:
    before = [program.digest for program in monitoring.prepare(layout, kept())]
    assert [program.digest for program in monitoring.prepare(layout, kept())] == before
    (layout.state / "monitoring" / "rules" / "gone.yml").write_text("groups: []\n")
    assert [program.digest for program in monitoring.prepare(layout, kept())] == before
    other = keys.Secrets(django="", powerdns="", master_key="", operator_password="", token="", metrics="another")
    assert [program.digest for program in monitoring.prepare(layout, other)] != before


def test_the_wish_is_remembered(layout: Layout) -> None:
    assert not monitoring.is_wanted(layout)
    monitoring.want(layout, True)
    assert monitoring.is_wanted(layout)
    monitoring.want(layout, False)
    assert not monitoring.is_wanted(layout)
