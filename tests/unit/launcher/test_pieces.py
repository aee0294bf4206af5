from __future__ import annotations

import dataclasses
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import demo, files, jobs, keys, leftovers, testing, venv
from launcher.errors import Problem
from launcher.layout import Layout
from launcher.services.names import forward_clause


def layout(place: Path, name: str = "var") -> Layout:
    return Layout(place, place / name, place / name, 77)


def test_a_file_is_written_once_and_whole(tmp_path: Path) -> None:
    target = tmp_path / "conf"
    me = {"owner": "root", "group": "root"} if os.geteuid() == 0 else None
    if me is None:
        pytest.skip("owners are set by root")
    assert files.write(target, "a\n", mode=0o600)
    assert not files.write(target, "a\n", mode=0o640)
    assert files.write(target, "b\n", mode=0o640)
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("b\n", 0o640)
    assert [p.name for p in tmp_path.iterdir()] == ["conf"]


def test_the_services_copy_is_the_code_and_nothing_else(tmp_path: Path) -> None:
    source, target = tmp_path / "clone", tmp_path / "app"
    (source / "pkg" / "__pycache__").mkdir(parents=True)
    (source / "pkg" / "a.py").write_text("1")
    (source / "pkg" / "__pycache__" / "a.pyc").write_text("x")
    (source / "secret").write_text("x")
    (source / "manage.py").write_text("2")
    (source / "manage.py").chmod(0o700)
    files.mirror(source, target, ("pkg", "manage.py", "missing"))
    first = files.digest(source, files.tree_files(source, ("pkg", "manage.py")))
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()) == ["manage.py", "pkg/a.py"]
    assert (target / "manage.py").stat().st_mode & 0o777 == 0o755
    assert (target / "pkg" / "a.py").stat().st_mode & 0o777 == 0o644
    (source / "pkg" / "b.py").write_text("3")
    (source / "manage.py").unlink()
    files.mirror(source, target, ("pkg", "manage.py"))
    assert sorted(p.name for p in target.rglob("*") if p.is_file()) == ["a.py", "b.py"]
    assert files.digest(source, files.tree_files(source, ("pkg", "manage.py"))) != first


def test_secrets_are_made_once(tmp_path: Path) -> None:
    place = layout(tmp_path)
    place.state.mkdir()
    if os.geteuid() != 0:
        pytest.skip("owners are set by root")
    first = keys.load(place)
    assert keys.load(place) == first
    assert (place.state / "secrets").stat().st_mode & 0o777 == 0o600
    assert first.django not in repr(first)
    assert keys.keep(place, token="t").token == "t"
    assert keys.load(place).django == first.django


def test_damaged_secrets_are_told(tmp_path: Path) -> None:
    place = layout(tmp_path)
    place.state.mkdir()
    (place.state / "secrets").write_text("{")
    with pytest.raises(Problem, match="damaged"):
        keys.load(place)


def test_only_the_tests_stack_may_be_killed_at_given_places(tmp_path: Path) -> None:
    kept = keys.Secrets(django="d", powerdns="p", master_key="m", operator_password="", token="")
    assert "ROOST_FAULT_DIR" not in keys.environment(layout(tmp_path), kept)
    assert "ROOST_FAULT_DIR" in keys.environment(layout(tmp_path, "var-test"), kept)


def test_the_environment_changes_with_the_lock_and_the_place(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("a==1 --hash=x\n")
    place = tmp_path / "venv"
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").write_text("")
    assert not venv.is_current(place, [lock])
    (place / "roost-key").write_text(venv.key([lock], place))
    assert venv.is_current(place, [lock])
    assert venv.key([lock], tmp_path / "other") != venv.key([lock], place)
    lock.write_text("a==2 --hash=y\n")
    assert not venv.is_current(place, [lock])


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", []),
        ("# nothing\nsearch example.com\n", []),
        ("nameserver 192.0.2.1\nnameserver fe80::1%eth0\n", ["192.0.2.1", "fe80::1"]),
        ("nameserver 192.0.2.1\n" * 5, ["192.0.2.1"] * 3),
    ],
)
def test_other_names_go_to_the_machines_own_servers(text: str, servers: list[str]) -> None:
    clause = forward_clause(text)
    assert [line.split()[1] for line in clause.splitlines() if "forward-addr" in line] == servers
    assert bool(clause) == bool(servers)


def test_children_of_a_supervisor_are_known_by_their_environment(tmp_path: Path) -> None:
    socket = tmp_path / "s.sock"
    argv = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    mark = {"SUPERVISOR_SERVER_URL": f"unix://{socket}"}
    child = subprocess.Popen(argv, env={**os.environ, **mark}, stdout=subprocess.PIPE)
    other = subprocess.Popen(argv, env={**os.environ}, stdout=subprocess.PIPE)
    try:
        for process in (child, other):
            assert process.stdout is not None
            process.stdout.readline()
        assert leftovers.find([socket]) == [child.pid]
        assert leftovers.find([tmp_path / "another.sock"]) == []
        leftovers.end([child.pid])
        assert child.wait(timeout=10) != 0
        assert other.poll() is None
    finally:
        for process in (child, other):
            process.kill()
            process.wait(timeout=10)


def test_the_demonstration_has_one_tenant_of_each_engine() -> None:
    assert {tenant.engine for tenant in demo.TENANTS} == {"prosody", "ejabberd"}
    assert demo.TENANTS[0].domain == "acme.roost.example"


def test_words_of_the_test_command() -> None:
    everything = testing.parse([])
    assert everything.lint
    assert everything.unit
    assert everything.integration
    assert everything.e2e
    unit = testing.parse(["--unit"])
    assert unit.unit
    assert not unit.needs_stack
    own = testing.parse(["tests/stack", "-k", "life", "--keep"])
    assert own.words == ("tests/stack", "-k", "life")
    assert own.keep
    assert own.needs_stack
    assert not own.unit
    with pytest.raises(Problem):
        testing.parse(["--unit", "tests/unit/x"])


def job(tmp_path: Path, name: str, script: str, report: Path | None = None) -> jobs.Job:
    return jobs.Job(name, [sys.executable, "-c", script], tmp_path, dict(os.environ), report, timeout_s=30)


def test_reports_are_counted_and_failures_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "r.xml"
    text = '<testsuites><testsuite tests="7" errors="1" failures="1" skipped="2"/></testsuites>'
    good = job(tmp_path, "good", f"open({str(report)!r}, 'w').write({text!r}); print('5 passed')", report)
    bad = job(tmp_path, "bad", "import sys; print('what went wrong'); sys.exit(3)")
    silent = job(tmp_path, "silent", "pass", tmp_path / "none.xml")
    count = jobs.Count()
    jobs.run_all([good, bad, silent], count, at_once=2, logs=tmp_path / "logs")
    assert (count.passed, count.failed, count.skipped) == (3, 2, 2)
    assert sorted(count.broken) == ["bad", "silent"]
    assert jobs.verdict(count) == 1
    said = capsys.readouterr().out
    assert "what went wrong" in said
    assert said.splitlines()[-1] == "3 passed, 2 failed, 2 skipped"


def test_a_job_waits_for_others_and_lets_those_behind_it_go_first(tmp_path: Path) -> None:
    log = tmp_path / "order"
    script = "import sys, time; f = open({!r}, 'a'); f.write('{}+'); f.flush(); time.sleep({}); f.write('{}-')"

    def noted(name: str, seconds: float, *after: str) -> jobs.Job:
        made = job(tmp_path, name, script.format(str(log), name, seconds, name))
        return dataclasses.replace(made, after=frozenset(after))

    row = [noted("a", 1.5), noted("b", 0.0, "a", "not run"), noted("c", 0.0)]
    jobs.run_all(row, jobs.Count(), at_once=2, logs=tmp_path / "logs")
    said = log.read_text()
    assert said.index("c+") < said.index("a-") < said.index("b+")
    with pytest.raises(ValueError, match="b stands before"):
        jobs.run_all([row[1], row[0]], jobs.Count(), at_once=2, logs=tmp_path / "logs")


def test_a_job_that_cannot_be_started_ends_the_others(tmp_path: Path) -> None:
    long = job(tmp_path, "long", "import time; time.sleep(25)")
    missing = dataclasses.replace(job(tmp_path, "missing", ""), argv=[str(tmp_path / "nothing")])
    behind = dataclasses.replace(
        job(tmp_path, "behind", f"open({str(tmp_path / 'ran')!r}, 'w')"), after=frozenset({"long"})
    )
    with pytest.raises(FileNotFoundError):
        jobs.run_all([missing, long, behind], jobs.Count(), at_once=2, logs=tmp_path / "logs")
    assert not (tmp_path / "ran").exists()


AGAIN = """
import sys
from pathlib import Path
argv, here = sys.argv[1:], Path({here!r})
report = next(word for word in argv if word.startswith("--junitxml=")).partition("=")[2]
tests = [word for word in argv if word.startswith("tests/")]
first = not (here / "tried").exists()
(here / "tried").write_text(" ".join(tests))
case = '<testcase classname="tests.a.test_b.TestC" name="test_d[e]" file="tests/a/test_b.py">'
bad = case + "<failure/></testcase>" + case + "<error/></testcase>"
good = '<testcase classname="tests.a.test_b" name="test_g" file="tests/a/test_b.py"/>'
failed = first or {always}
shape = ' tests="3" errors="1" failures="1" skipped="0"' if failed else ' tests="1" errors="0" failures="0" skipped="0"'
Path(report).write_text(f"<testsuites><testsuite{{shape}}>{{bad if failed else ''}}{{good}}</testsuite></testsuites>")
sys.exit(1 if failed else 0)
"""


@pytest.mark.parametrize("always", [False, True])
def test_what_failed_is_tried_once_more_alone(tmp_path: Path, always: bool, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "a.xml"
    script = AGAIN.format(here=str(tmp_path), always=always)
    argv = [sys.executable, "-c", script, f"--junitxml={report}", "tests/a"]
    count = jobs.Count()
    jobs.run_all([jobs.Job("a", argv, tmp_path, dict(os.environ), report)], count, at_once=1, logs=tmp_path)
    assert (count.passed, count.failed, count.broken) == (1, 2, ["a"])
    jobs.try_again(count, logs=tmp_path)
    assert (tmp_path / "tried").read_text() == "tests/a/test_b.py::TestC::test_d[e]"
    assert (count.passed, count.failed, count.broken) == ((1, 2, ["a"]) if always else (2, 0, []))
    assert ("passed at the second try" in capsys.readouterr().out) is not always
    assert jobs.verdict(count) == (1 if always else 0)


def test_nobody_needs_the_stack_any_more_when_it_is_broken(tmp_path: Path) -> None:
    wanted = testing.Wanted()
    here = dataclasses.replace(layout(tmp_path), clone=Path(__file__).resolve().parents[3])
    (here.state / "home").mkdir(parents=True)
    sharing, apart = testing._own_servers(here, {"ROOST_DATABASE_URL": "postgresql:///x"})
    sets = [testing._pytest(here, {}, name, []) for name in testing._stack_sets(here, wanted)]
    row = testing._in_order(sets, sharing, apart)
    names = [one.name for one in row]
    assert len(set(names)) == len(names)
    assert {one.name for one in (*sharing, *apart, *sets)} == set(names)
    (faults,) = [one for one in row if one.name == "faults"]
    assert {"db", "stack", "e2e", "migrations", "OpenAPI schema"} <= faults.after
    assert faults.after <= set(names[: names.index("faults")])


def test_a_run_without_tests_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="No test ran"):
        jobs.verdict(jobs.Count())


def test_passwords_of_the_demonstration_are_read_back(tmp_path: Path) -> None:
    place = layout(tmp_path)
    place.state.mkdir()
    assert demo.passwords_of(place) == {}
    (place.state / "demo").write_text(json.dumps({"a@acme.roost.example": "x"}))
    assert demo.passwords_of(place) == {"a@acme.roost.example": "x"}


def test_an_engine_with_an_empty_environment_is_known_by_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwuid(os.getuid())
    tenant = pwd.struct_passwd((*me[:2], 59_321, *me[3:5], str(tmp_path / "instances" / "k"), me[6]))
    monkeypatch.setattr(pwd, "getpwall", lambda: [me, tenant])
    assert leftovers.of_tenants(tmp_path / "instances") == []
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    engine = subprocess.Popen(["/usr/bin/env", "-i", "/bin/sleep", "60"], user=59_321)
    try:
        assert leftovers.of_tenants(tmp_path / "instances") == [engine.pid]
        assert leftovers.of_tenants(tmp_path / "elsewhere") == []
    finally:
        engine.kill()
        engine.wait(timeout=10)


def test_processes_of_containers_and_labs_are_nobodys_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host of a lab has a user of its own with the same number, and its processes are seen here."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    me = pwd.getpwuid(os.getuid())
    tenant = pwd.struct_passwd((*me[:2], 59_322, *me[3:5], str(tmp_path / "instances" / "k"), me[6]))
    monkeypatch.setattr(pwd, "getpwall", lambda: [me, tenant])
    become = ["setpriv", "--reuid=59322", "--clear-groups", "sh", "-c", "echo; exec sleep 60"]
    argv = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", *become]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert leftovers.of_tenants(tmp_path / "instances") == []
    finally:
        holder.kill()
        holder.wait(timeout=10)
