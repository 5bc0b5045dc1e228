"""A run left its records, and nothing that is still running."""

import json


def records(host):
    found = host.run("cat /var/lib/onecopy/runs/*/results.jsonl")
    assert found.rc == 0
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_every_trial_has_one_record(host):
    found = records(host)
    is_emulated = any(record["accelerator"] == "tcg" for record in found)
    assert sorted((record["label"], record["kind"]) for record in found) == [
        *([("gfs", "probe")] if is_emulated else []),
        ("gfs", "residency"),
        ("gfs", "timed"),
        ("hfs", "residency"),
        ("hfs", "timed"),
    ]


def test_states_were_verified(host):
    for record in records(host):
        assert record["status"] == "ok", record["message"]
        assert record["kind"] == "probe" or record["reached"]["host"]["resident_pages"] == 0


def test_copies_are_the_papers(host):
    for record in records(host):
        if record["kind"] == "residency":
            counted = record["copies"]["all"]
            copies = (counted["host_pages"] + counted["guest_pages"]) / counted["accessed_pages"]
            assert abs(copies - {"hfs": 1.0, "gfs": 2.0}[record["label"]]) < 0.03


def test_waiting_for_a_slow_disk_is_no_work(host):
    for record in records(host):
        if record["kind"] == "probe":
            found = record["probe"]["metrics"]
            # A second of waiting would be a thousand million instructions, a hundred times what the read takes.
            assert 0.5 < found["cold_instructions_per_byte"] < 20
            # As the claim path.instrument has it.
            assert 0.9 <= found["throttled_by_plain_ratio"] <= 1.1, found


def test_nothing_is_left_running(host):
    assert host.run("pgrep -f qemu-system-x86_64").rc == 1
    assert host.run("systemctl list-units --no-legend 'onecopy-run@*' 'onecopy-guest@*'").stdout == ""
    assert host.run("flock --nonblock /run/onecopy-machine/lock true").rc == 0
