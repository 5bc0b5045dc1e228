#!/usr/bin/python
"""Write down what a KVM host can run, and why not where it cannot."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_capabilities
short_description: Write down what a KVM host can run, and why not where it cannot
description:
  - Asks QEMU and virtiofsd by C(--help) and by behaviour, never by version, and keeps the answer in a file that the plan reads.
  - In check mode the answer is returned and nothing is written or made. What only a try tells, which makes a loop device, a limit, units and
    a mount for a moment, is then as the file says it was found, or not tried.
options:
  path:
    description: The file, usually C(/var/lib/onecopy/capabilities.json).
    type: path
    required: true
  accelerator:
    description: What M(kvm_probe_info) decided.
    type: str
    choices: [kvm, tcg]
    required: true
  accelerator_reason:
    description: Why.
    type: str
    required: true
  qemu:
    description: QEMU to ask.
    type: str
    default: qemu-system-x86_64
  virtiofsd_paths:
    description: Where virtiofsd may be; the first that is there counts.
    type: list
    elements: str
    default: [/usr/libexec/virtiofsd, /usr/lib/qemu/virtiofsd]
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Write down what this host can run
  host_capabilities:
    path: /var/lib/onecopy/capabilities.json
    accelerator: "{{ probe.accelerator }}"
    accelerator_reason: "{{ probe.detail }}"
"""

RETURN = r"""
capabilities:
  description:
    - The document. Per need of a system under test whether it is supported, and the reason where it is not.
    - What was not tried is not supported, and its C(tried) is false.
  returned: always
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import capabilities


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "accelerator": {"type": "str", "choices": ["kvm", "tcg"], "required": True},
            "accelerator_reason": {"type": "str", "required": True},
            "qemu": {"type": "str", "default": "qemu-system-x86_64"},
            "virtiofsd_paths": {
                "type": "list",
                "elements": "str",
                "default": ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"],
            },
        },
        supports_check_mode=True,
    )
    params = module.params
    path = Path(params["path"])
    document = capabilities.discover(
        qemu_binary=params["qemu"],
        virtiofsd_paths=params["virtiofsd_paths"],
        accelerator=params["accelerator"],
        accelerator_reason=params["accelerator_reason"],
        known=capabilities.read(path) if module.check_mode else None,
    )
    try:
        changed = capabilities.write(path, document, check_mode=module.check_mode)
    except OSError as error:
        module.fail_json(msg=f"{params['path']}: {error.strerror}")
    module.exit_json(changed=changed, capabilities=document)


if __name__ == "__main__":
    main()
