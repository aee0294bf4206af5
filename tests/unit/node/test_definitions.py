"""Process definitions, parsed back by supervisor's own parser and by systemd's rules."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import ServerOptions, UnhosedConfigParser

from controlplane.values.bundle import ABSENT, STOPPED, Bundle, Program
from tests.unit.node.modules import part

supervisor, systemd, bundles = part("roost_supervisor"), part("roost_systemd"), part("roost_bundle")

ASCII_CONTROL = "".join(map(chr, [*range(32), 127]))
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters=ASCII_CONTROL), max_size=30)
HOSTILE = st.one_of(TEXT, st.text("%;# \t'\"\\$`(){}[]=@,é\u2003".replace("\t", ""), max_size=20))
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


def bundle(**changes: Any) -> dict[str, Any]:
    program = Program(argv=tuple(changes.pop("argv", ("/bin/true",))), env=tuple(changes.pop("env", {}).items()))
    made = Bundle(
        key="abcd1234",
        user="r-abcd1234",
        root="/srv/roost/instances/abcd1234",
        control_group="roost",
        program=program,
        **changes,
    )
    result: dict[str, Any] = made.as_json()
    return result


def parsed_by_supervisor(text: str) -> Any:
    parser = UnhosedConfigParser()
    options = ServerOptions()
    options.here, options.environ_expansions = "/", {}
    parser.expansions = {"ENV_HOME": "/wrong"}
    parser.read_string(text)
    (config,) = options.processes_from_section(parser, "program:roost-abcd1234", "roost-abcd1234")
    return config


@given(words=st.lists(HOSTILE, max_size=5), env=st.dictionaries(NAME, HOSTILE, max_size=4))
def test_supervisor_runs_exactly_the_wanted_words(words: list[str], env: dict[str, str]) -> None:
    wanted = bundle(argv=["/bin/true", *words], env=env)
    config = parsed_by_supervisor(supervisor.render(wanted, "/tmp"))
    assert shlex.split(config.command) == supervisor.command_of(wanted)
    assert shlex.split(config.command)[-len(words) - 1 :] == ["/bin/true", *words]
    assert {f"{k}={v}" for k, v in env.items()} <= set(shlex.split(config.command))


def test_supervisor_definition_says_how_it_starts_and_stops(tmp_path: Path) -> None:
    (tmp_path / "100%").mkdir()
    config = parsed_by_supervisor(supervisor.render(bundle(), f"{tmp_path}/100%"))
    assert (config.autostart, config.umask, config.stopwaitsecs, config.killasgroup) == (True, 0o007, 15, True)
    assert config.stdout_logfile == f"{tmp_path}/100%/roost-abcd1234.log"
    assert not parsed_by_supervisor(supervisor.render(bundle(state=STOPPED), "/tmp")).autostart
    assert bundle(state=ABSENT)["state"] == "absent"


def words_of_systemd(line: str) -> list[str]:
    """systemd.syntax(7), "Quoting", and systemd.unit(5), "Specifiers", for double-quoted words."""
    words = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in words]


@given(words=st.lists(HOSTILE, max_size=5), env=st.dictionaries(NAME, HOSTILE, max_size=4))
def test_systemd_runs_exactly_the_wanted_words(words: list[str], env: dict[str, str]) -> None:
    text = systemd.render(bundle(argv=["/bin/true", *words], env=env))
    lines = dict(line.split("=", 1) for line in text.split("\n") if "=" in line)
    read = [word.replace("$$", "$") for word in words_of_systemd(lines["ExecStart"])]
    assert read == ["/bin/true", *words]
    assert words_of_systemd(lines["Environment"]) == [f"{k}={v}" for k, v in sorted(env.items())]
    assert "$" not in lines["ExecStart"].replace("$$", "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_unit_without_a_complaint(tmp_path: Path) -> None:
    unit = tmp_path / "roost-abcd1234.service"
    hostile = "100% \"grün\" 'x' \\ $HOME ;# {}"
    text = systemd.render(bundle(argv=["/bin/true", hostile], env={"GREETING": hostile}))
    unit.write_text(text.replace("r-abcd1234", "daemon"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr


def test_a_unit_gives_the_engine_its_own_directories_only() -> None:
    lines = systemd.render(bundle()).splitlines()
    root = "/srv/roost/instances/abcd1234"
    assert f"ReadWritePaths={root}/data {root}/uploads {root}/log {root}/run" in lines
    assert {"ProtectSystem=strict", "NoNewPrivileges=yes", "PrivateTmp=yes", "MemoryMax=536870912"} <= set(lines)


@pytest.mark.parametrize(
    "change",
    [
        {"root": "/"},
        {"root": "/etc"},
        {"root": "/srv/../etc/abcd1234"},
        {"root": "/srv/other"},
        {"user": "root;id"},
        {"key": "../x"},
        {"state": "gone"},
        {"files": [{"path": "../etc/passwd", "content_b64": "", "mode": 0o640, "on_change": "none"}]},
        {"files": [{"path": "/etc/passwd", "content_b64": "", "mode": 0o640, "on_change": "none"}]},
        {"dirs": [{"path": "a/../../b", "mode": 0o750, "owner": "root", "group": "tenant"}]},
    ],
)
def test_a_bundle_that_could_harm_the_node_is_refused(change: dict[str, Any]) -> None:
    bundles.validate(bundle())
    with pytest.raises(bundles.Refused):
        bundles.validate({**bundle(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"argv": ["relative"]},
        {"argv": []},
        {"argv": ["/bin/x", "a\nb"]},
        {"env": {"A": "x\0"}},
        {"env": {"A=B": "x"}},
        {"stop_signal": "TERM\n[x]"},
        {"ready_socket": "../../run/x"},
    ],
)
def test_a_program_that_could_break_out_of_its_definition_is_refused(change: dict[str, Any]) -> None:
    wanted = bundle()
    wanted["program"] |= change
    with pytest.raises(bundles.Refused):
        bundles.validate(wanted)
