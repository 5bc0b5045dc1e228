"""Daemons, sockets and mappings, on captured tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible.module_utils.onecopy import audit_host
from ansible.module_utils.onecopy import audit_processes as procs

Argv = Callable[[str], list[str]]
Captured = Callable[[str], str]


def daemon(*argv: str, kind: procs.DaemonKind = "virtiofsd", sockets: set[int] | None = None) -> procs.Daemon:
    found = procs.parse_daemon(procs.Process(1, list(argv)), kind, 1)
    found.sockets = sockets or set()
    return found


def test_libvirt_daemon_has_a_descriptor_and_no_path(argv: Argv) -> None:
    found = daemon(*argv("libvirt_11.3.0_virtiofsd_1.13.2"))
    assert (found.shared_dir, found.cache, found.sandbox, found.socket, found.descriptor) == (
        "/srv/share",
        "auto",
        "namespace",
        None,
        22,
    )


@pytest.mark.parametrize(
    ("words", "cache", "directory"),
    [
        (["--socket-path=/s", "--shared-dir=/d", "--cache=never"], "never", "/d"),
        (["--socket-path", "/s", "--shared-dir", "/d", "--cache", "always"], "always", "/d"),
        (["--socket-path", "/s", "-o", "source=/d,cache=metadata"], "metadata", "/d"),
        (["--socket-path", "/s", "--shared-dir", "/d"], "auto", "/d"),
    ],
)
def test_virtiofsd_options(words: list[str], cache: str, directory: str) -> None:
    found = daemon("virtiofsd", *words)
    assert (found.socket, found.cache, found.shared_dir, found.dax_window) == ("/s", cache, directory, None)


def test_hostfsd_has_a_window_unless_told_otherwise() -> None:
    words = ["python3", "/usr/lib/hostfsd.pyz", "--socket", "/s", "--shared-dir", "/d"]
    assert procs.daemon_kind(words, "/usr/bin/python3.13") == "hostfsd"
    assert daemon(*words, kind="hostfsd").dax_window == "512M"
    assert daemon(*words, "--window", "0", kind="hostfsd").dax_window == "0"


def test_other_programs_are_no_daemons() -> None:
    assert procs.daemon_kind(["vi", "hostfsd"], "/usr/bin/vi") is None
    assert procs.daemon_kind(["python3", "-c", "1"], "/usr/bin/python3.13") is None


@pytest.mark.parametrize(
    ("exe", "answer"),
    [
        ("/usr/bin/qemu-system-x86_64", True),
        ("/usr/libexec/qemu-kvm", True),
        ("/usr/bin/qemu-img", False),
        ("/usr/bin/qemu-x86_64-static", False),
    ],
)
def test_qemu_is_known_by_its_program(exe: str, answer: bool) -> None:
    assert procs.is_qemu(procs.Process(1, ["x"], exe=exe)) is answer


def test_daemon_is_matched_by_the_path_of_its_socket(captured: Captured) -> None:
    sockets = procs.unix_sockets(captured("linux_6.18_proc_net_unix"))
    path = "/var/lib/libvirt/qemu/domain-1-web1/fs0-fs.sock"
    other, mine = daemon("virtiofsd", "--fd=3", sockets={1}), daemon("virtiofsd", "--fd=3", sockets={211778})
    assert procs.match_daemon(path, [other, mine], sockets) is mine
    assert procs.match_daemon(path, [other], sockets) is None
    assert procs.match_daemon(None, [other, mine], sockets) is None


def test_daemon_is_matched_by_name_where_its_socket_is_not_seen() -> None:
    mine = daemon("virtiofsd", "--socket-path", "/run//s.sock", "--shared-dir", "/d")
    assert procs.match_daemon("/run/s.sock", [mine], []) is mine


def test_sockets_listen_or_are_connected(captured: Captured) -> None:
    found = {(one.path, one.listening) for one in procs.unix_sockets(captured("linux_6.18_proc_net_unix"))}
    monitor = "/var/lib/libvirt/qemu/domain-1-web1/monitor.sock"
    assert {(monitor, True), (monitor, False), ("/lab/run/a.qmp", True)} <= found
    assert ("/lab/run/a.qmp", False) not in found


def test_backed_memory_of_a_private_mapping(captured: Captured) -> None:
    found = procs.mappings(captured("linux_6.18_smaps_private"))
    assert audit_host.backed_bytes([128 << 20], found, []) == 128 << 20
    assert audit_host.backed_bytes([256 << 20], found, []) is None


def test_backed_memory_of_a_memfd_is_its_blocks(captured: Captured) -> None:
    found = procs.mappings(captured("linux_6.18_smaps_memfd"))
    assert [one.shared for one in found] == [True]
    memfd = procs.OpenFile(9, "/memfd:memory-backend-memfd (deleted)", (1, 1), False, 128 << 20, 100 << 20, 0)
    assert audit_host.backed_bytes([128 << 20], found, [memfd]) == 100 << 20


def test_window_mappings_are_told_from_guest_memory(captured: Captured) -> None:
    found = procs.mappings(captured("linux_6.18_smaps_memfd"))
    share = procs.Mapping(2 << 20, (1, 2), "/data/f", shared=True)
    image = procs.Mapping(4 << 20, (1, 3), "/images/p.img", shared=True)
    assert audit_host.window_mappings([*found, share, image], {"/images/p.img"}) == [share]


def test_small_unmapped_files_are_outside_the_window() -> None:
    def file(inode: int, size: int) -> procs.OpenFile:
        return procs.OpenFile(9, "/f", (8, inode), False, size, size, 0)

    outside = procs.outside_window([procs.Mapping(2 << 20, (1, 2), "/data/f", shared=True)], 1 << 20)
    assert [outside(one) for one in (file(2, 10), file(3, 10), file(4, 2 << 20))] == [False, True, False]


def test_thp_choice_and_meminfo() -> None:
    assert audit_host.chosen("always [madvise] never") == "madvise"
    assert audit_host.read_meminfo("MemTotal:       16 kB\nHugePages_Total:   3\n") == {"MemTotal": 16384}
