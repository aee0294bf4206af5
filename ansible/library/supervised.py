#!/usr/bin/python
"""A program of the node's own supervisord: defined as wanted, and running.

For machines without systemd, where HAProxy and coturn are such programs. Tenants' engines are not its business;
the module converge carries those.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: supervised
short_description: Define and run a program of supervisord
description:
  - Writes the definition into supervisord's include directory, brings it into force and lets the program run.
  - Check mode says what it would do, also where supervisord is not there yet.
options:
  name:
    description: Name of the program, and of its file.
    type: str
    required: true
  definition:
    description: The lines below "[program:NAME]".
    type: str
    default: ""
  directory:
    description: supervisord's include directory.
    type: str
    required: true
  socket:
    description: supervisord's unix socket.
    type: str
    required: true
  once:
    description: The program does its work and ends; it is run when its definition is new, and at every boot.
    type: bool
    default: false
  state:
    description: Whether it should be there.
    type: str
    choices: [running, absent]
    default: running
author:
  - Roost (@roost)
"""

EXAMPLES = r"""
- name: Let HAProxy run
  supervised:
    name: haproxy
    definition: |
      command=/usr/sbin/haproxy -W -db -f /etc/haproxy/haproxy.cfg
      autorestart=true
    directory: /etc/supervisor/conf.d
    socket: /run/supervisor.sock
"""

RETURN = r"""
done:
  description: What was or would be done, in words.
  returned: always
  type: list
  elements: str
"""

import http.client
import os
import time
import xmlrpc.client

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.roost_bundle import read_text, write_atomically
from ansible.module_utils.roost_supervisor import FAULT_ALREADY_ADDED, FAULT_ALREADY_STARTED, FAULT_NOT_RUNNING, connect

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "definition": {"type": "str", "default": ""},
    "directory": {"type": "str", "required": True},
    "socket": {"type": "str", "required": True},
    "once": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["running", "absent"], "default": "running"},
}
#: Seconds for a program to come up, or to end.
LIMIT_S = 30
HEADER = "; Written by Roost; changes are overwritten.\n"


class Program:
    """One program and what is known of it; ``done`` says what was or would be done."""

    def __init__(self, params, rpc, check):
        self.name, self.once = params["name"], params["once"]
        self.path = os.path.join(params["directory"], self.name + ".conf")
        self.wanted = "{}[program:{}]\n{}\n".format(HEADER, self.name, params["definition"].strip())
        self.rpc, self.check = rpc, check
        self.done = []

    def state(self):
        """supervisord's word for it, "" if it knows none of that name or does not answer in check mode."""
        try:
            return self.rpc.getProcessInfo(self.name)["statename"]
        except xmlrpc.client.Fault:
            return ""
        except (OSError, http.client.HTTPException):
            if self.check:
                return ""
            raise

    def run(self):
        """As wanted, and running (or, once, run)."""
        state, present = self.state(), read_text(self.path)
        new = present != self.wanted
        if new:
            self.done.append("definition " + ("created" if present is None else "changed"))
            if not self.check:
                write_atomically(self.path, self.wanted, 0o644)
        if not state or (not self.once and state not in ("RUNNING", "STARTING")):
            self.done.append("started")
        if self.check or not self.done:
            return
        self.rpc.reloadConfig()
        if new and state:
            self._take_away()
        self._ignore(FAULT_ALREADY_ADDED, self.rpc.addProcessGroup, self.name)
        # A program of autostart comes up with its group; it may have tried in vain before.
        self._ignore(FAULT_ALREADY_STARTED, self.rpc.startProcess, self.name, False)
        self._wait(("EXITED", "RUNNING") if self.once else ("RUNNING",))

    def remove(self):
        """Neither defined nor running."""
        if read_text(self.path) is None and not self.state():
            return
        self.done.append("removed")
        if self.check:
            return
        if os.path.lexists(self.path):
            os.unlink(self.path)
        if self.state():
            self._take_away()
            self.rpc.reloadConfig()

    def _take_away(self):
        self._ignore(FAULT_NOT_RUNNING, self.rpc.stopProcess, self.name, False)
        self._wait(("STOPPED", "EXITED", "FATAL"))
        self.rpc.removeProcessGroup(self.name)

    def _wait(self, states):
        deadline = time.monotonic() + LIMIT_S
        while self.state() not in states:
            if self.state() == "FATAL" or time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is {self.state()} and does not become {states[-1]}.")
            time.sleep(0.05)
        if states[0] == "EXITED" and self.rpc.getProcessInfo(self.name)["exitstatus"]:
            raise TimeoutError(f"{self.name} failed.")

    @staticmethod
    def _ignore(code, call, *args):
        try:
            call(*args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != code:
                raise


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    program = Program(params, connect(params["socket"]), module.check_mode)
    try:
        if params["state"] == "absent":
            program.remove()
        else:
            program.run()
    except TimeoutError as error:
        module.fail_json(msg=f"{error} Its log, below supervisord's, says why.", done=program.done)
    except xmlrpc.client.Fault as fault:
        module.fail_json(msg=f"supervisord refuses {program.name}: {fault.faultString}", done=program.done)
    except (OSError, http.client.HTTPException) as error:
        module.fail_json(
            msg="supervisord does not answer at {}: {}.".format(params["socket"], error), done=program.done
        )
    answer = {"changed": bool(program.done), "done": program.done}
    if module._diff:
        answer["diff"] = {"prepared": "".join(f"{program.name}: {line}\n" for line in program.done)}
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
