"""Guests run as units that show their exact command line, answer, and see the data; a guest dies with its daemon."""

import json

import pytest

GUESTS = "/run/onecopy/guests"
ASK = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(60)
connection.connect(sys.argv[1])
stream = connection.makefile("rwb")
for number, request in enumerate(json.loads(sys.argv[2]), start=918273):
    stream.write(json.dumps({"id": number, **request}).encode() + b"\\n")
    stream.flush()
    answer = {}
    while answer.get("id") != number:
        answer = json.loads(stream.readline())
print(json.dumps(answer))
"""


def ask(host, guest, **request):
    argument = json.dumps([{"op": "hello"}, request])
    done = host.run("python3 -c %s %s %s", ASK, f"{GUESTS}/{guest}/runner.sock", argument)
    assert done.rc == 0, done.stderr
    return json.loads(done.stdout)


def test_units_show_the_exact_command_line(host):
    for guest in ("share", "image"):
        unit = host.service(f"onecopy-guest@{guest}.service")
        assert unit.is_running
        shown = host.check_output(f"systemctl cat onecopy-guest@{guest}.service")
        command = host.check_output(
            f"tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID onecopy-guest@{guest}.service)/cmdline"
        )
        words = [line for line in command.splitlines() if line]
        assert words[0] == "qemu-system-x86_64"
        assert all(word.replace("%", "%%") in shown for word in words)
    assert host.service("onecopy-hfs-runner@host.service").is_running


def test_qemu_is_not_root(host):
    pid = host.check_output("systemctl show -P MainPID onecopy-guest@image.service")
    assert host.check_output(f"ps -o user= -p {pid}").strip() == "onecopy"


@pytest.mark.parametrize("guest", ["share", "image", "host"])
def test_the_runner_answers(host, guest):
    assert ask(host, guest, op="hello")["result"]["version"] == 1


def test_a_guest_has_no_way_out(host):
    pipeline = [["ls", "/sys/class/net"]]
    assert ask(host, "image", op="run", pipeline=pipeline, timeout_seconds=20)["result"]["exit_codes"] == [0]
    only_loopback = [["sh", "-c", '[ "$(ls /sys/class/net)" = lo ]']]
    assert ask(host, "image", op="run", pipeline=only_loopback, timeout_seconds=20)["result"]["exit_codes"] == [0]


@pytest.mark.parametrize("guest", ["share", "image", "host"])
def test_every_guest_reads_the_same_bytes(host, guest):
    (name,) = (
        path.removesuffix(".json")
        for path in host.file("/var/lib/onecopy/manifests").listdir()
        if path.endswith(".json") and "images" not in path
    )
    manifest = json.loads(host.file(f"/var/lib/onecopy/manifests/{name}.json").content_string)
    lines = "".join(f"{file['sha256']}  /data/a/{file['path']}\n" for file in manifest["files"])
    script = f"cat > /scratch/sums <<'END'\n{lines}END\nsha256sum --quiet -c /scratch/sums"
    result = ask(host, guest, op="run", pipeline=[["sh", "-c", script]], timeout_seconds=120)["result"]
    assert result["exit_codes"] == [0], result["stderr"]


@pytest.mark.parametrize("guest", ["share", "image", "host"])
def test_data_are_read_only_and_the_scratch_is_not(host, guest):
    result = ask(host, guest, op="run", pipeline=[["touch", "/data/a/new"]], timeout_seconds=20)["result"]
    assert "Read-only file system" in result["stderr"]
    assert ask(host, guest, op="run", pipeline=[["touch", "/scratch/new"]], timeout_seconds=20)["result"][
        "exit_codes"
    ] == [0]


def test_a_guest_dies_with_its_daemon(host):
    """Nobody can abort requests to a dead daemon: its guest would hang for ever. Called again, the test finds both dead."""
    daemon, guest = "onecopy-virtiofsd@mortal.service", "onecopy-guest@mortal.service"
    if host.service(daemon).is_running:
        assert host.service(guest).is_running
        host.check_output(f"systemctl kill --signal=KILL {daemon}")
        host.check_output(f"for i in $(seq 100); do systemctl is-active -q {guest} || exit 0; sleep 0.1; done; exit 1")
    assert not host.service(guest).is_running
    assert host.service("onecopy-guest@share.service").is_running
