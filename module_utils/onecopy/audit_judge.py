"""What the audit concludes: how many bytes a guest can hold a second time, and the one setting to try. Pure.

A page counts as duplicated when it lies in the host's page cache and can lie in a guest's as well. What is in the guest
cannot be seen from outside, so every figure is an upper bound: never more than the host caches, and never more than the
guest's memory that is really backed (or than its page cache, where balloon statistics tell it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

SourceKind = Literal["image", "pmem", "share"]
SettingKey = Literal[
    "image_direct",
    "base_dax",
    "pmem_dax_mount",
    "share_no_guest_cache",
    "share_all_dax",
    "drop_leftover",
    "free_page_reporting",
    "none",
]

# Below these nobody gains anything worth a changed setting.
WORTH_BYTES: Final = 16 << 20
WORTH_OF_MEMORY: Final = 0.01


@dataclass(frozen=True, slots=True)
class Source:
    """One image, pmem image or share of one guest, as found.

    ``host_cached`` is what can be duplicated by this guest and lies in the host's cache; None where it could not be
    told. ``guests`` is how many guests of this host use the same file or directory. ``mapped`` bytes are in a DAX
    window. ``outside_dax`` bytes are of files too small for the share's DAX threshold.
    """

    kind: SourceKind
    name: str
    host_cached: int | None
    guests: int = 1
    direct: bool = False
    guest_caches: bool = True
    dax: bool = False
    mapped: int = 0
    outside_dax: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing to try. ``evidence`` names the two labels of the kit's examples between which it is the only difference, if they have such."""

    key: SettingKey
    short: str
    try_this: str
    gives_up: str
    evidence: tuple[str, str] | None = None


SETTINGS: Final[dict[SettingKey, Setting]] = {
    setting.key: setting
    for setting in (
        Setting(
            "image_direct",
            "cache=none",
            "cache=none (cache.direct=on) for this image",
            "reads that miss the guest's own cache go to the device, not to the host's cache",
            ("gfs", "gfs_direct"),
        ),
        Setting(
            "base_dax",
            "base as virtio-pmem, DAX",
            "give the common base image to all its guests as virtio-pmem and mount it -o ro,dax",
            "the base becomes read-only for good, a guest kernel with virtio-pmem and DAX is needed, small reads are page faults",
            ("gfs_shared_base", "gfs_pmem_dax"),
        ),
        Setting(
            "pmem_dax_mount",
            "mount -o dax",
            "mount the pmem device with -o dax in the guest, if that is not done yet (the host cannot see it)",
            "nothing that a page cache would give, except for very small files",
            ("gfs", "gfs_pmem_dax"),
        ),
        Setting(
            "share_no_guest_cache",
            "virtiofsd --cache never",
            "virtiofsd --cache never for this share (a DAX window does the same without a request per read, for guests that may alter the files)",
            "every read of the guest becomes a request to the daemon; shared writable mmap fails",
            ("virtiofs_auto", "virtiofs_never"),
        ),
        Setting(
            "share_all_dax",
            "dax=always",
            "let the share map these files too: mount with -o dax=always, or a lower --inode-dax threshold",
            "a 2 MiB range of the window for every file, however small",
            ("myfs", "myfs_every_file"),
        ),
        Setting(
            "drop_leftover",
            "drop its pages once",
            "drop the image's pages from the host's cache once: dd of=IMAGE oflag=nocache conv=notrunc,fdatasync count=0",
            "nothing: this guest reads with O_DIRECT and does not use them",
        ),
        Setting(
            "free_page_reporting",
            "free-page-reporting=on",
            "virtio-balloon-pci,free-page-reporting=on",
            "a little guest CPU time; memory given back must be faulted in again",
        ),
        Setting("none", "-", "nothing", "nothing"),
    )
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The judgement of one source: at most ``duplicated`` bytes (None: not known), why, and what would end it."""

    duplicated: int | None
    reason: str
    remedy: SettingKey


@dataclass(frozen=True, slots=True)
class Memory:
    """A guest's memory, in bytes; None where it could not be told."""

    total: int
    backed: int | None
    guest_cached: int | None = None
    balloon: bool = False
    free_page_reporting: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guest can hold a second time, what limits it, and the one setting to try."""

    duplicated_at_most: int
    limited_by: Literal["host_cache", "guest_memory", "guest_cache"]
    complete: bool
    setting: SettingKey
    subject: str | None
    reason: str
    saves_at_most: int


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """The same for a host: the sum over its guests, and the setting that ends the largest part of it."""

    duplicated_at_most: int
    complete: bool
    setting: SettingKey
    reason: str
    saves_at_most: int
    notes: tuple[str, ...] = field(default=())


def judge_source(source: Source) -> Finding:
    """Judge one image, pmem image or share."""
    cached = source.host_cached
    if cached is None:
        return Finding(None, "the host's cache of it is not known", "none")
    if source.kind == "share":
        return _judge_share(source, cached)
    if cached == 0:
        return Finding(0, "the host caches no page of it", "none")
    return _judge_image(source, cached)


def _judge_image(source: Source, cached: int) -> Finding:
    if source.kind == "pmem":
        return Finding(
            cached,
            "0 where the guest mounts it with -o dax, all of it where it does not: the host cannot see which",
            "pmem_dax_mount",
        )
    if source.direct:
        return Finding(
            cached,
            "left in the host's cache by something else: this guest reads with O_DIRECT and caches for itself",
            "drop_leftover",
        )
    if source.guests > 1:
        return Finding(
            cached,
            f"the host caches it once and each of {source.guests} guests may again: {source.guests} + 1 copies",
            "base_dax",
        )
    return Finding(cached, "the host caches the image and the guest caches what it reads from it", "image_direct")


def _judge_share(source: Source, cached: int) -> Finding:
    if not source.guest_caches:
        return Finding(
            0, "the guest keeps no pages of this share, but for private mappings (programs run from it)", "none"
        )
    if source.dax and (source.mapped or cached == source.outside_dax):
        if source.outside_dax == 0:
            return Finding(0, "the guest maps the host's cache through the DAX window", "none")
        return Finding(
            source.outside_dax,
            "files below the DAX threshold are cached by the guest; the others are mapped",
            "share_all_dax",
        )
    if cached == 0:
        return Finding(0, "no page of a file that the guest knows is in the host's cache", "none")
    if source.dax:
        return Finding(
            cached,
            "there is a DAX window and nothing is mapped in it: the guest seems mounted without dax",
            "share_all_dax",
        )
    return Finding(
        cached,
        "the guest may cache every page of the files it knows, and the host caches them too",
        "share_no_guest_cache",
    )


def judge_guest(memory: Memory, sources: Sequence[Source]) -> Verdict:
    """The upper bound for one guest: what the host caches of its storage, limited by what the guest can hold."""
    findings = [(source, judge_source(source)) for source in sources]
    unknown = [source.name for source, finding in findings if finding.duplicated is None]
    total = sum(finding.duplicated or 0 for _, finding in findings)
    limits = {
        "guest_cache": memory.guest_cached,
        "guest_memory": memory.total if memory.backed is None else min(memory.backed, memory.total),
    }
    limited_by, limit = min(
        ((name, value) for name, value in limits.items() if value is not None), key=lambda item: item[1]
    )
    bound = limit if unknown else min(total, limit)
    largest = max(findings, key=lambda item: item[1].duplicated or 0, default=None)
    worth = max(WORTH_BYTES, int(memory.total * WORTH_OF_MEMORY))
    by: Literal["host_cache", "guest_memory", "guest_cache"] = "host_cache"
    if unknown or total > limit:
        by = "guest_cache" if limited_by == "guest_cache" else "guest_memory"
    if largest and min(bound, largest[1].duplicated or 0) >= worth:
        source, finding = largest
        return Verdict(
            bound, by, not unknown, finding.remedy, source.name, finding.reason, min(bound, finding.duplicated or 0)
        )
    if memory.backed is not None and memory.backed >= max(worth, memory.total // 2) and not memory.free_page_reporting:
        lacks = "its balloon does not report free pages" if memory.balloon else "it has no balloon"
        return Verdict(
            bound,
            by,
            not unknown,
            "free_page_reporting",
            None,
            f"memory that the guest frees never comes back to the host: {lacks}",
            0,
        )
    reason = (
        f"what is not known: {', '.join(unknown)}" if unknown else "less is duplicated than a changed setting is worth"
    )
    return Verdict(bound, by, not unknown, "none", None, reason, 0)


def judge_host(verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> HostVerdict:
    """Sum the guests' bounds; choose the setting by the bytes it can end on the whole host."""
    total = sum(verdict.duplicated_at_most for verdict in verdicts)
    saves: dict[SettingKey, int] = {}
    for verdict in verdicts:
        saves[verdict.setting] = saves.get(verdict.setting, 0) + verdict.saves_at_most
    best: SettingKey = max(saves, key=lambda key: saves[key], default="none")
    complete = all(verdict.complete for verdict in verdicts)
    if not saves.get(best):
        return HostVerdict(total, complete, "none", "no single setting ends enough to be worth it", 0, tuple(notes))
    guests = sum(verdict.setting == best for verdict in verdicts)
    reason = f"it concerns {guests} of {len(verdicts)} guests and the largest part of what they can duplicate"
    return HostVerdict(total, complete, best, reason, saves[best], tuple(notes))


def host_notes(
    *,
    ksm_running: bool,
    pages_sharing: int,
    shared_memory_guests: int,
    guests: int,
    thp: str | None,
    shmem_thp: str | None,
) -> list[str]:
    """Remarks on host settings that bear on duplication; plain facts with their consequence."""
    notes = []
    if ksm_running and shared_memory_guests:
        notes.append(
            f"KSM runs, but {shared_memory_guests} of {guests} guests have shared memory, which KSM never merges"
        )
    if ksm_running and not pages_sharing:
        notes.append("KSM runs and merges nothing: it costs scanning alone")
    if not ksm_running and pages_sharing:
        notes.append(f"KSM is stopped; {pages_sharing} pages stay merged until they are written")
    if ksm_running and pages_sharing:
        notes.append(
            "KSM merges guests' private memory with one another, never with the host's page cache: it does not lower the bounds here"
        )
    if shmem_thp in ("always", "force"):
        notes.append(
            f"shmem_enabled={shmem_thp}: shared guest memory comes in 2 MiB pages, so backed memory overstates what guests use"
        )
    if thp == "always" and guests:
        notes.append(
            "THP is 'always': private guest memory comes in 2 MiB pages, so backed memory overstates what guests use"
        )
    return notes
