#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-only
"""Ansible module: what xlplug is and has granted on a host, as facts."""

DOCUMENTATION = r"""
module: xlplug_facts
short_description: Facts about xlplug on a Xen host
description:
  - Sets the fact C(xlplug) with version, hook, granted domains and the findings of C(xlplug doctor).
  - Changes nothing, and works on hosts without xlplug and without Xen.
options: {}
attributes:
  check_mode: {support: full}
author: xlplug maintainers
"""

EXAMPLES = r"""
- xlplug.xen.xlplug_facts:

- ansible.builtin.debug:
    msg: "{{ xlplug.findings | selectattr('status', 'equalto', 'failure') | map(attribute='text') | list }}"
"""

RETURN = r"""
ansible_facts:
  description: One fact, C(xlplug).
  returned: always
  type: dict
  sample:
    xlplug: {installed: true, version: 0.1.0, hooked: true, domains: [], findings: []}
"""

import json

from ansible.module_utils.basic import AnsibleModule


def main():
    """Run as Ansible runs modules."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    facts = {"installed": False, "version": None, "hooked": False, "domains": [], "findings": []}
    if module.get_bin_path("xlplug") is not None:
        facts["installed"] = True
        facts["version"] = module.run_command(["xlplug", "--version"])[1].split()[-1]
        facts["hooked"] = module.run_command(["xlplug", "hook", "status"])[0] == 0
        facts["findings"] = _json(module, "doctor").get("findings", [])
        facts["domains"] = _json(module, "show").get("domains", [])
    module.exit_json(changed=False, ansible_facts={"xlplug": facts})


def _json(module, command):
    """What a command prints; {} where it cannot say anything, as off Xen."""
    try:
        return json.loads(module.run_command(["xlplug", command, "--format", "json"])[1])
    except ValueError:
        return {}


if __name__ == "__main__":
    main()
