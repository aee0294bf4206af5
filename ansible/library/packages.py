#!/usr/bin/python
"""Debian packages without their services: installed, or brought to the newest version.

ansible's own apt module loads the whole list of packages to say that nothing is to be done (a second and more for
each role), asks for python3-apt, and refuses check mode before the first apt-get update. This one asks dpkg first.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: packages
short_description: Install Debian packages without starting their services
description:
  - Asks dpkg, and calls apt-get only if something is missing or to be upgraded.
  - The list of packages is fetched before that if it is old, and once more if a package is not to be had.
  - Configuration files that were changed are kept; recommended packages are left out.
options:
  names:
    description: The packages.
    type: list
    elements: str
    required: true
  upgrade:
    description: Bring them to the newest versions, too. Nothing else is upgraded but what they need.
    type: bool
    default: false
  lists_valid_s:
    description: Age in seconds up to which the list of packages is good enough; for upgrades at most one minute.
    type: int
    default: 86400
author:
  - Roost (@roost)
"""

EXAMPLES = r"""
- name: Install HAProxy without starting it
  packages:
    names: [haproxy]
"""

RETURN = r"""
versions:
  description: Version of each package that is installed now.
  returned: always
  type: dict
before:
  description: The same before the run.
  returned: always
  type: dict
"""

import glob
import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils.roost_bundle import read_text, write_atomically

ARGUMENTS = {
    "names": {"type": "list", "elements": "str", "required": True},
    "upgrade": {"type": "bool", "default": False},
    "lists_valid_s": {"type": "int", "default": 86400},
}
UPGRADE_LISTS_VALID_S = 60
POLICY = "/usr/sbin/policy-rc.d"
POLICY_TEXT = "#!/bin/sh\n# Roost installs packages; this file goes away then.\nexit 101\n"
APT = [
    "apt-get",
    "--quiet",
    "--yes",
    "--option=DPkg::Lock::Timeout=120",
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
    "--option=Dpkg::Use-Pty=0",
]
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


class NoService:
    """While it lasts, no package's script starts a service; whatever policy was there comes back."""

    kept = POLICY + ".before-roost"

    def __enter__(self):
        # One of ours was left by a run that was killed; what it kept is still beside it.
        if os.path.lexists(POLICY) and read_text(POLICY) != POLICY_TEXT:
            os.rename(POLICY, self.kept)
        write_atomically(POLICY, POLICY_TEXT, 0o755)

    def __exit__(self, *_):
        os.unlink(POLICY)
        if os.path.lexists(self.kept):
            os.rename(self.kept, POLICY)


def versions(module, names):
    """Package -> version of those that are installed."""
    _, out, _ = module.run_command(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Status}\n", *names]
    )
    rows = [line.split() for line in out.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}


def lists_age_s():
    """Seconds since the list of packages was fetched last."""
    places = ["/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists/partial"]
    times = [os.path.getmtime(place) for place in places if os.path.exists(place)]
    if not glob.glob("/var/lib/apt/lists/*_Packages*"):
        return float("inf")
    return time.time() - max(times, default=0.0)


def apt_get(module, *words):
    """(status, the words of apt-get that say why)."""
    code, out, err = module.run_command([*APT, *words], environ_update=ENVIRONMENT)
    said = [line for line in (out + err).splitlines() if line.startswith(("E:", "W:", "dpkg:"))]
    return code, " ".join(said[-4:]) or (out + err).strip()[-300:]


def predicted(module, names):
    """Whether apt-get would install or upgrade something, as far as the list of packages on the machine goes."""
    code, out, _ = module.run_command([*APT, "--simulate", "install", "--no-install-recommends", *names])
    return code != 0 or any(line.startswith("Inst ") for line in out.splitlines())


def install(module, names, lists_valid_s):
    """Fetch the lists if they are old, then install; once more with new lists if that failed with older ones."""
    fetched = lists_age_s() > lists_valid_s
    if fetched:
        code, why = apt_get(module, "update")
        if code:
            module.fail_json(msg=f"apt-get update failed: {why}")
    with NoService():
        code, why = apt_get(module, "install", "--no-install-recommends", *names)
        if code and not fetched and apt_get(module, "update")[0] == 0:
            code, why = apt_get(module, "install", "--no-install-recommends", *names)
    if code:
        module.fail_json(msg=f"apt-get install failed: {why}")


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    names, upgrade = module.params["names"], module.params["upgrade"]
    before = versions(module, names)
    missing = [name for name in names if name not in before]
    after = before
    if module.check_mode:
        changed = bool(missing) or (upgrade and predicted(module, names))
    else:
        if missing or upgrade:
            valid_s = module.params["lists_valid_s"]
            install(module, names if upgrade else missing, min(valid_s, UPGRADE_LISTS_VALID_S) if upgrade else valid_s)
            after = versions(module, names)
        changed = before != after
    answer = {"changed": changed, "before": before, "versions": after}
    if module._diff:
        lines = [f"{name}: {before.get(name, 'not installed')}" for name in names]
        new = [f"{name}: {after.get(name, 'to be installed')}" for name in names]
        answer["diff"] = {"before": "\n".join(lines) + "\n", "after": "\n".join(new) + "\n"}
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
