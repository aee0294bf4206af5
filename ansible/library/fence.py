#!/usr/bin/python
"""Refuses a preparation that was overtaken: by the number of its lease, as the module converge does.

A play cannot hold a lock over its tasks. So it waits until no other run holds the node, and it asks again before
each play: a run that outlived its worker ends there as soon as a newer one has begun.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: fence
short_description: Refuse a run of Roost that was overtaken
description:
  - Waits for the node's lock, compares the fence with the highest one seen, and remembers it.
  - Makes the state directory if it is missing. It never reports a change, since nothing a person could see changes.
options:
  state_dir:
    description: Directory where the node keeps its lock and its fence.
    type: str
    required: true
  fence:
    description: Number of the caller's lease. A lower one than the node has seen is refused.
    type: int
    required: true
  lock_timeout_s:
    description: Seconds to wait for another run on this node.
    type: int
    default: 60
author:
  - Roost (@roost)
"""

EXAMPLES = r"""
- name: Make sure that no newer run has begun
  fence:
    state_dir: /var/lib/roost-node
    fence: 12
"""

RETURN = r"""
refusal:
  description: Why the run was refused - "locked" or "fence".
  returned: on refusal
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.roost_fence import Turned, pass_fence, take_lock

ARGUMENTS = {
    "state_dir": {"type": "str", "required": True},
    "fence": {"type": "int", "required": True},
    "lock_timeout_s": {"type": "int", "default": 60},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params, check = module.params, module.check_mode
    if check and not os.path.isdir(params["state_dir"]):
        module.exit_json(changed=False)
    try:
        os.makedirs(params["state_dir"], mode=0o700, exist_ok=True)
        lock = take_lock(params["state_dir"], params["lock_timeout_s"])
        pass_fence(params["state_dir"], params["fence"], check)
        os.close(lock)
    except Turned as turned:
        module.fail_json(msg=str(turned), refusal=turned.reason)
    except OSError as error:
        module.fail_json(msg="The state directory {}: {}.".format(params["state_dir"], error.strerror))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
