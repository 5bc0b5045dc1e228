#!/usr/bin/python
"""Say what storage data need, and what is allocated for them."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: storage_ledger_info
short_description: Say what storage data need, and what is allocated for them
description:
  - Lists shares and images of one file system with the bytes that they need and that the host allocated, and what lies free inside guests'
    file systems, where the host cannot see it.
  - Images may be raw (the free space of an ext4 image is read from its superblock) or qcow2.
options:
  store:
    description: A path on the file system that everything lies on.
    type: path
    required: true
  shares:
    description: Directories by name.
    type: dict
    default: {}
  images:
    description: Image files by name.
    type: dict
    default: {}
  guest_free_bytes:
    description: Free bytes that a guest reported of its mounted file system, by name of the image; the superblock lags behind then.
    type: dict
    default: {}
  before:
    description: The RV(ledger) of an earlier call.
    type: dict
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Compare a share with an image of the same data
  storage_ledger_info:
    store: /var/lib/onecopy/store
    shares: {smoke: /var/lib/onecopy/store/shares/smoke/data}
    images: {gfs: /var/lib/onecopy/store/images/smoke/gfs.img}
"""

RETURN = r"""
ledger:
  description:
    - V(store) with V(total_bytes), V(free_bytes), V(available_bytes); V(shares) with V(files), V(needed_bytes), V(allocated_bytes);
      V(images) with V(format), V(size_bytes), V(allocated_bytes), and where known V(guest_free_bytes) and V(hidden_free_bytes)
      (allocated on the host, free in the guest); V(others_bytes), whatever else is allocated.
    - Allocated bytes, others and free add up to the total.
  returned: success
  type: dict
change:
  description: Change of every number since O(before).
  returned: when O(before) is given
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import storage_ledger


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "store": {"type": "path", "required": True},
            "shares": {"type": "dict", "default": {}},
            "images": {"type": "dict", "default": {}},
            "guest_free_bytes": {"type": "dict", "default": {}},
            "before": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    params = module.params
    images = {name: Path(path) for name, path in params["images"].items()}
    try:
        free = {name: int(number) for name, number in params["guest_free_bytes"].items()}
        taken = storage_ledger.snapshot(Path(params["store"]), params["shares"], images, free)
    except storage_ledger.StorageError as error:
        module.fail_json(msg=str(error))
    except (TypeError, ValueError) as error:
        module.fail_json(msg=f"guest_free_bytes: {error}")
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    change = {} if params["before"] is None else {"change": storage_ledger.difference(params["before"], taken)}
    module.exit_json(changed=False, ledger=taken, **change)


if __name__ == "__main__":
    main()
