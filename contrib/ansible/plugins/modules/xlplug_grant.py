#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Ansible module: grant a running Xen domain what its display needs, or take it back."""

DOCUMENTATION = r"""
module: xlplug_grant
short_description: Grants a running Xen domain legacy VGA rights, or takes them back
description:
  - Runs C(xlplug grant) or C(xlplug revoke) on a Xen host, as root.
  - A domain that xl creates through the hook needs this only after a repair.
options:
  domain:
    description: The domain's number.
    type: str
    required: true
  state:
    description: Whether the domain holds what it needs.
    type: str
    choices: [present, absent]
    default: present
  config:
    description: The domain's xl config on the host; else libxl's own record of it is used.
    type: path
  map_legacy:
    description: Also map the VGA set 1:1, for a device model that does not.
    type: bool
    default: false
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
author: xlplug maintainers
"""

EXAMPLES = r"""
- name: Grant domain 7 what it needs
  xlplug.xen.xlplug_grant:
    domain: 7

- name: Take it back
  xlplug.xen.xlplug_grant:
    domain: 7
    state: absent
"""

RETURN = r"""
granted:
  description: What xlplug has granted, one line for each domain and kind, as Xen prints ranges.
  returned: always
  type: list
  elements: str
steps:
  description: What was done, or in check mode would be.
  returned: changed
  type: list
  elements: str
"""

import json

from ansible.module_utils.basic import AnsibleModule


def main():
    """Run as Ansible runs modules."""
    module = AnsibleModule(
        argument_spec={
            "domain": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "config": {"type": "path"},
            "map_legacy": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    domain = module.params["domain"]
    before = _show(module, domain)
    if module.params["state"] == "absent":
        steps = ["revoke %s" % line for line in _lines(before)]
        command = ["revoke", domain]
    else:
        command = ["grant", domain]
        if module.params["config"]:
            command += ["--config", module.params["config"]]
        if module.params["map_legacy"]:
            command.append("--map-legacy")
        steps = _to_do(module, command, before)
    if not steps:
        module.exit_json(changed=False, granted=_lines(before))
    if module.check_mode:
        after = [] if module.params["state"] == "absent" else sorted({*_lines(before), *steps})
        module.exit_json(changed=True, granted=_lines(before), steps=steps, diff=_diff(_lines(before), after))
    done = _xlplug(module, *command)
    after = _lines(_show(module, domain))
    said = [line for line in done.splitlines() if not line.startswith("done:")]
    module.exit_json(changed=True, granted=after, steps=said, diff=_diff(_lines(before), after))


def _to_do(module, command, before):
    """Steps of the dry run that are not done, or were undone by somebody else, each as one line."""
    planned = json.loads(_xlplug(module, *command, "--dry-run", "--format", "json"))["steps"]
    if before["state"] == "applied" and not any(row["missing"] for row in before["rights"]):
        done = {(row["grantee"], row["kind"]): row["granted"] for row in before["rights"]}
        planned = [step for step in planned if not _is_done(step, done)]
    return [step["text"] for step in planned]


def _is_done(step, done):
    """Whether a permission is among the ranges that were granted; mappings come and go with their permissions."""
    kind, _, what = step["op"].partition("_")
    if what != "permission":
        return True
    last = step["first"] + step["count"]
    granted = done.get((step["grantee"], kind), [])
    return any(r["first"] <= step["first"] and last <= r["first"] + r["count"] for r in granted)


def _show(module, domain):
    return json.loads(_xlplug(module, "show", domain, "--format", "json"))["domains"][0]


def _xlplug(module, *words):
    code, out, err = module.run_command(["xlplug", *words])
    if code:
        lines = [line for line in err.splitlines() if line.startswith("xlplug: ") and "warning" not in line]
        module.fail_json(msg=(lines or [err.strip() or "xlplug ended with %d" % code])[-1], rc=code)
    return out


def _lines(shown):
    return [
        "%s domid=%d %s %s" % (row["grantee"], row["domid"], row["kind"], _ranges(row["granted"]))
        for row in shown["rights"]
        if row["granted"]
    ]


def _ranges(ranges):
    ends = [(r["first"], r["first"] + r["count"] - 1) for r in ranges]
    return "{ %s }" % ", ".join("%x" % a if a == b else "%x-%x" % (a, b) for a, b in ends)


def _diff(before, after):
    return {"before": "".join(line + "\n" for line in before), "after": "".join(line + "\n" for line in after)}


if __name__ == "__main__":
    main()
