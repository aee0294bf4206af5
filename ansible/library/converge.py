#!/usr/bin/python
"""Makes all changed instances of a node what their bundles say, in one task.

It carries: users, trees, files, process definitions, starts and stops. It decides nothing about XMPP and renders
no configuration; the control plane did. Bundles fail one by one, and the result names each.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: converge
short_description: Apply Roost's bundles to this node
description:
  - Makes unix users, directory trees, files and processes of tenants what the given bundles say.
  - Runs once for all bundles; starts and stops side by side; changes nothing that is as wanted.
options:
  bundles:
    description: A JSON list of bundles, compressed by zlib, in base64 (it holds secrets, so it is one opaque value).
    type: str
    required: true
  state_dir:
    description: Directory where the node keeps its lock, its fence and marks. Made with mode 0700 if missing.
    type: str
    required: true
  runtime:
    description: Who runs the processes.
    type: str
    choices: [supervisor, systemd]
    required: true
  runtime_dir:
    description: Directory of the process definitions.
    type: str
    required: true
  supervisor_socket:
    description: Unix socket of supervisord.
    type: str
    default: ""
  fence:
    description: Number of the caller's lease. A lower one than the node has seen is refused.
    type: int
    required: true
  lock_timeout_s:
    description: Seconds to wait for another run on this node.
    type: int
    default: 60
  ready_limit_s:
    description: Seconds to wait at most for processes to accept connections; those that are up are no error then.
    type: int
    default: 600
author:
  - Roost (@roost)
"""

EXAMPLES = r"""
- name: Apply the bundles
  converge:
    bundles: "{{ roost_bundles }}"
    state_dir: /var/lib/roost/state
    runtime: systemd
    runtime_dir: /etc/systemd/system
    fence: 12
"""

RETURN = r"""
instances:
  description: By key, what was done (changed, restarted, reload_needed, running, error, diff).
  returned: always
  type: dict
refusal:
  description: Why nothing was tried - "locked" or "fence".
  returned: on refusal
  type: str
"""

import base64
import errno
import json
import os
import zlib

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import roost_adopt, roost_tree
from ansible.module_utils.roost_bundle import ABSENT, RUNNING, Marks, Refused, Work, remove_unfinished, validate
from ansible.module_utils.roost_fence import Turned, pass_fence, take_lock
from ansible.module_utils.roost_processes import kill_leftovers
from ansible.module_utils.roost_supervisor import Supervisor
from ansible.module_utils.roost_systemd import Systemd

ARGUMENTS = {
    "bundles": {"type": "str", "required": True, "no_log": True},
    "state_dir": {"type": "str", "required": True},
    "runtime": {"type": "str", "choices": ["supervisor", "systemd"], "required": True},
    "runtime_dir": {"type": "str", "required": True},
    "supervisor_socket": {"type": "str", "default": ""},
    "fence": {"type": "int", "required": True},
    "lock_timeout_s": {"type": "int", "default": 60},
    "ready_limit_s": {"type": "int", "default": 600},
}


def guarded(work, step):
    """Run a step for one bundle; what fails there is that bundle's error alone."""
    if work.error:
        return
    try:
        step(work)
    except Refused as refused:
        work.error = str(refused)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "error")
        work.error = "{}: {} ({})".format(error.filename or "a file", error.strerror, name)
    except Exception as error:  # noqa: BLE001 - a defect: its text could hold content, its type cannot
        work.error = f"Unexpected {type(error).__name__} in {step.__name__}."


def prepare(work):
    """All but the process of an instance that is to stay; for one that is to go, only that it is ours."""
    if work.state == ABSENT:
        roost_tree.find_user(work)
    else:
        if work.bundle.get("restart") and work.state == RUNNING:
            work.intend("restart")
        if roost_adopt.is_owed(work):
            work.intend("restart")
        roost_tree.apply(work)


def clear_away(work):
    """The rest of an absent instance, after its process."""
    if not (work.check and work.was_up):  # before the stop, the process itself cannot be told from leftovers
        kill_leftovers(work)
    roost_tree.remove(work)


def clear_old(work):
    """What was kept of a former state and is not wanted any more."""
    if os.path.isdir(work.root):  # in check mode there may be none yet
        roost_adopt.clear_old(work)


def forget_adoptions(work):
    if not work.check:
        roost_adopt.forget(work)


def make_works(bundles, marks, check):
    """(works, results of bundles that are not even valid)."""
    works, refused = [], {}
    for bundle in bundles:
        try:
            validate(bundle)
            works.append(Work(bundle, marks, check))
        except (Refused, KeyError, TypeError, AttributeError) as error:
            text = str(error) if isinstance(error, Refused) else f"The bundle lacks or misuses {error}."
            refused[str(bundle.get("key", "?"))] = {
                "changed": False,
                "restarted": False,
                "reload_needed": False,
                "running": False,
                "error": text,
                "diff": [],
            }
    return works, refused


def converge(bundles, runtime, marks, check):
    """Apply all; key -> result."""
    works, results = make_works(bundles, marks, check)
    for work in works:
        guarded(work, prepare)
    runtime.converge([work for work in works if not work.error])
    for work in works:
        if work.state == ABSENT:
            guarded(work, clear_away)
            guarded(work, runtime.forget)
            guarded(work, forget_adoptions)
        else:
            guarded(work, clear_old)
        results[work.key] = work.outcome()
        guarded(work, Work.finish)
    return results


def unpack(text):
    """The list of bundles."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params, check = module.params, module.check_mode
    os.umask(0o022)
    if os.geteuid() != 0:
        module.fail_json(msg="converge needs root on the node.", instances={})
    try:
        bundles = unpack(params["bundles"])
    except (ValueError, zlib.error):
        module.fail_json(msg="The bundles cannot be read.", instances={})
    try:
        os.makedirs(params["state_dir"], mode=0o700, exist_ok=True)
        lock = take_lock(params["state_dir"], params["lock_timeout_s"])
        pass_fence(params["state_dir"], params["fence"], check)
        marks = Marks(params["state_dir"])
        if not check:
            remove_unfinished(params["runtime_dir"], "roost-")
            for part in ("", "pending", "adopted"):
                remove_unfinished(os.path.join(params["state_dir"], part), "")
    except Turned as turned:
        module.fail_json(msg=str(turned), refusal=turned.reason, instances={})
    except OSError as error:
        module.fail_json(msg="The state directory {}: {}.".format(params["state_dir"], error.strerror), instances={})
    if params["runtime"] == "supervisor":
        runtime = Supervisor(
            params["runtime_dir"], params["state_dir"], params["supervisor_socket"], check, params["ready_limit_s"]
        )
    else:
        runtime = Systemd(params["runtime_dir"], check, params["ready_limit_s"])
    results = converge(bundles, runtime, marks, check)
    os.close(lock)
    lines = [f"{key}: {line}" for key in sorted(results) for line in results[key]["diff"]]
    answer = {"changed": any(result["changed"] for result in results.values()), "instances": results}
    if module._diff:
        answer["diff"] = {"prepared": "".join(line + "\n" for line in lines)}
    failed = sorted(key for key, result in results.items() if result["error"])
    if failed:
        module.fail_json(msg="Not all bundles were applied: {}.".format(", ".join(failed)), **answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
