"""docker-compose.yml: valid by Compose's own schema, and it says what the program needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]


def test_is_valid_by_the_schema(tmp_path: Path) -> None:
    compose = "/usr/bin/docker-compose"
    assert shutil.which(compose), "install Debian's docker-compose: it holds the schema"
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / "roost.env").touch()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "postgres_password").write_text("x")
    done = subprocess.run([compose, "config", "-q"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("broken", ["services: {web: {image: 5}}", "services: {web: {port: '1:1'}}"])
def test_the_check_can_fail(tmp_path: Path, broken: str) -> None:
    (tmp_path / "docker-compose.yml").write_text(broken)
    done = subprocess.run(["/usr/bin/docker-compose", "config", "-q"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode != 0


def test_every_queue_has_a_worker() -> None:
    from controlplane.reconcile import watch

    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    commands = [service.get("command", []) for service in services.values()]
    served = {queue for c in commands if "-Q" in c for queue in c[c.index("-Q") + 1].split(",")}
    assert set(watch._queues.values()) <= served
    assert any("beat" in command for command in commands)


def test_the_image_copies_what_the_services_run() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY")}
    assert copied == {"requirements.lock", "manage.py", "controlplane", "tenants", "ansible", "templates", "locale"}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed


def test_no_volume_hides_the_image_code() -> None:
    (place,) = re.findall(r"^WORKDIR (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = {volume.split(":")[1] for service in services.values() for volume in service.get("volumes", [])}
    assert not [mount for mount in mounts if f"{place}/".startswith(f"{mount}/") or f"{mount}/".startswith(f"{place}/")]


def test_followers_of_events_leave_threads_for_others() -> None:
    from controlplane.api.follow import MAX_FOLLOWERS

    (threads,) = re.findall(r"--threads=(\d+)", (ROOT / "Dockerfile").read_text())
    assert int(threads) >= 2 * MAX_FOLLOWERS
