#!/usr/bin/python
"""Tell whether guests can run under KVM here."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kvm_probe_info
short_description: Tell whether guests can run under KVM here, by running one
description:
  - A C(/dev/kvm) that opens proves nothing. There are hosts where it opens and a guest then hangs or stops with "KVM internal error".
  - So this runs a payload under KVM with a deadline and says C(kvm) or C(tcg), with the reason. No process is left.
  - The built-in payload goes to long mode with paging, executes a BMI2 instruction where the CPU has it, and counts fifty million rounds.
    It takes less than half a second where KVM works. Where instructions of the guest's kernel are emulated one by one it fails as stock kernels do.
  - With O(kernel) a real guest kernel is booted instead. That is the authoritative answer for that kernel.
options:
  qemu:
    description: QEMU to run.
    type: str
    default: qemu-system-x86_64
  deadline_seconds:
    description: After this time the guest is ended, and the answer is C(tcg).
    type: float
    default: 20
  user:
    description: Run QEMU as this user, so that its permissions count; empty is the module's own.
    type: str
    default: ""
  kernel:
    description: Kernel image to boot instead of the built-in payload.
    type: path
  initrd:
    description: Its initial RAM disk.
    type: path
  append:
    description: Its command line, after C(console=ttyS0 panic=-1).
    type: str
    default: ""
  marker:
    description: Text on the serial console that proves that the kernel ran.
    type: str
    default: Linux version
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Find the accelerator
  kvm_probe_info:
  register: probe

- name: Ask a real kernel
  kvm_probe_info:
    kernel: /var/lib/onecopy/guest/vmlinuz
    marker: "Run /init as init process"
"""

RETURN = r"""
accelerator:
  description: What guests should use, C(kvm) or C(tcg).
  returned: always
  type: str
reason:
  description: One of works, no_device, no_permission, timed_out, internal_error, exited, no_qemu.
  returned: always
  type: str
detail:
  description: The reason in one line for a person.
  returned: always
  type: str
seconds:
  description: How long the guest was watched.
  returned: always
  type: float
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import kvm_probe


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "qemu": {"type": "str", "default": "qemu-system-x86_64"},
            "deadline_seconds": {"type": "float", "default": 20},
            "user": {"type": "str", "default": ""},
            "kernel": {"type": "path"},
            "initrd": {"type": "path"},
            "append": {"type": "str", "default": ""},
            "marker": {"type": "str", "default": "Linux version"},
        },
        required_by={"initrd": ("kernel",)},
        supports_check_mode=True,
    )
    params = module.params
    kernel = None
    if params["kernel"]:
        initrd = Path(params["initrd"]) if params["initrd"] else None
        kernel = kvm_probe.Kernel(Path(params["kernel"]), params["marker"], initrd, params["append"])
    try:
        verdict = kvm_probe.probe(
            qemu=params["qemu"], deadline_seconds=params["deadline_seconds"], user=params["user"], kernel=kernel
        )
    except KeyError:
        module.fail_json(msg=f"user {params['user']}: there is no such user")
    module.exit_json(changed=False, **asdict(verdict))


if __name__ == "__main__":
    main()
