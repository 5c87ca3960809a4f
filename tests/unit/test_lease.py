"""Leases, with real processes where the point is that a process dies, sleeps or races."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resomap import lease as lease_module
from resomap.errors import LeaseLostError, StorageError
from resomap.lease import Leases

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Start]:
    """Start a process that runs `code` with `leases` on the folder and `lease` acquired; it has printed 'ready'."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str = "time.sleep(60)", *, expiry_s: float = 60.0) -> subprocess.Popen[str]:
        script = textwrap.dedent(f"""
            import os, sys, time
            from pathlib import Path
            from resomap.lease import Leases
            leases = Leases(Path({str(tmp_path)!r}), expiry_s={expiry_s})
            lease = leases.acquire("cell")
            print("ready", lease is not None, flush=True)
        """) + textwrap.dedent(code)
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready")
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process think that holders run on another machine, so that only their counter tells."""
    monkeypatch.setattr(lease_module, "this_machine", lambda: "another machine")


def acquire_within(leases: Leases, seconds: float) -> object:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lease = leases.acquire("cell")
        if lease is not None:
            return lease
        time.sleep(leases.interval_s / 4)
    return None


def test_acquire_gives_a_lease_to_one_only_until_it_is_released(tmp_path: Path) -> None:
    first, second = Leases(tmp_path), Leases(tmp_path)
    lease = first.acquire("cell")
    assert lease is not None
    assert second.acquire("cell") is None
    assert first.acquire("cell") is None  # nor to the same process twice
    other = second.acquire("cell2")
    assert other is not None
    assert first.is_held("cell")
    lease.release()
    lease.release()
    assert not first.is_held("cell")
    again = second.acquire("cell")
    assert again is not None
    again.release()
    other.release()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cell.000002.lease", "cell2.000001.lease"]


def test_names_that_begin_alike_do_not_meet(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    held = [leases.acquire(name) for name in ("net", "net.000007", "net-32")]
    assert all(held)
    assert leases.generations("net") == [1]
    for lease in held:
        assert lease is not None
        lease.release()


def test_what_a_kill_left_of_making_a_lease_goes_with_the_next_and_no_other_file(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    left = tmp_path / ".net[1].000001.lease.0a1b2c3d.tmp"  # a name is no pattern, whatever it holds
    others = [".net1.000001.lease.0a1b2c3d.tmp", ".net[1].000001.json.0a1b2c3d.tmp"]
    for name in (left.name, *others):
        (tmp_path / name).touch()
    lease = leases.acquire("net[1]")
    assert lease is not None
    lease.release()
    assert not left.exists()
    assert all((tmp_path / name).exists() for name in others)


def test_a_killed_holder_of_this_machine_is_followed_at_once(tmp_path: Path, holder: Start) -> None:
    process = holder()
    leases = Leases(tmp_path, expiry_s=3600)
    assert leases.acquire("cell") is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not leases.is_held("cell")
    lease = leases.acquire("cell")
    assert lease is not None
    lease.release()


def test_a_zombie_counts_as_ended(tmp_path: Path, holder: Start) -> None:
    process = holder()
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but its number is still there
    lease = Leases(tmp_path, expiry_s=3600).acquire("cell")
    assert lease is not None
    lease.release()


def test_a_process_number_used_again_is_another_process(
    tmp_path: Path, holder: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder()
    started = lease_module._start_of(process.pid)
    monkeypatch.setattr(lease_module, "_start_of", lambda pid: (started or 0) + 1)
    lease = Leases(tmp_path, expiry_s=3600).acquire("cell")
    assert lease is not None
    lease.release()


@pytest.mark.usefixtures("elsewhere")
def test_a_living_holder_elsewhere_keeps_its_lease_and_a_dead_one_loses_it_after_the_expiry(
    tmp_path: Path, holder: Start
) -> None:
    process = holder(expiry_s=1.2)
    leases = Leases(tmp_path, expiry_s=1.2)
    assert acquire_within(leases, 2.5) is None
    process.send_signal(signal.SIGKILL)
    died = time.monotonic()
    lease = acquire_within(leases, 10)
    assert lease is not None
    assert time.monotonic() - died > 0.9  # not before it was watched for the expiry (less one beat)
    lease.release()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("elsewhere")
def test_a_stopped_holder_that_wakes_finds_its_lease_lost_and_harms_nothing(tmp_path: Path, holder: Start) -> None:
    code = """
        from resomap.errors import LeaseLostError
        while True:
            try:
                lease.check()
            except LeaseLostError as error:
                lease.release()
                print(error, flush=True)
                break
            time.sleep(0.01)
        """
    sleeper = holder(code, expiry_s=0.6)
    sleeper.send_signal(signal.SIGSTOP)
    leases = Leases(tmp_path, expiry_s=0.6)
    lease = acquire_within(leases, 10)
    assert lease is not None
    before = (tmp_path / "cell.000002.lease").read_bytes()[13:]
    sleeper.send_signal(signal.SIGCONT)
    told, _ = sleeper.communicate(timeout=20)
    assert "another process has taken cell over" in told
    lease.check()  # type: ignore[attr-defined]
    assert (tmp_path / "cell.000002.lease").read_bytes()[13:] == before
    lease.release()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("elsewhere")
def test_clock_jumps_change_nothing(tmp_path: Path, holder: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    holder(expiry_s=1.2)
    leases = Leases(tmp_path, expiry_s=1.2)
    real = time.time
    for jump in (-1e6, 1e6, 0.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        os.utime(tmp_path / "cell.000001.lease", (max(0.0, real() + jump), max(0.0, real() + jump)))
        assert acquire_within(leases, 0.8) is None


@pytest.mark.usefixtures("elsewhere")
def test_time_that_was_not_watched_does_not_count(
    tmp_path: Path, holder: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = holder(expiry_s=60)
    process.kill()
    process.wait()
    leases, now = Leases(tmp_path, expiry_s=60), [0.0]
    monkeypatch.setattr(lease_module.time, "monotonic", lambda: now[0])
    assert leases.acquire("cell") is None
    now[0] += 10_000  # this machine slept, and perhaps the holder's with it
    assert leases.acquire("cell") is None
    for _ in range(4):  # 10 s were counted for the sleep; 40 more
        now[0] += 10
        assert leases.acquire("cell") is None
    now[0] += 10
    lease = leases.acquire("cell")
    assert lease is not None
    lease.release()


@pytest.mark.parametrize("processes", [2, 4])
def test_of_several_that_take_over_one_wins(processes: int, tmp_path: Path, holder: Start) -> None:
    """Each takes the lease 20 times as often as it gets it, and writes itself into a file that must be its alone."""
    holder().kill()
    code = textwrap.dedent(f"""
        import os, sys, time
        from pathlib import Path
        from resomap.lease import Leases
        leases, folder = Leases(Path({str(tmp_path)!r})), Path({str(tmp_path)!r})
        for _ in range(20):
            with leases.hold("cell") as lease:
                alone = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
                os.close(alone)
                time.sleep(0.001)
                lease.check()
                os.unlink(folder / "inside")
        print("done")
    """)
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    told = [process.communicate(timeout=60) for process in running]
    assert [out for out, _ in told] == ["done\n"] * processes, told
    assert Leases(tmp_path).generations("cell") == [1 + 20 * processes]


def test_one_that_comes_late_does_not_disturb_those_that_have_moved_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judged generation 1 dead and slept; meanwhile 2 and 3 came, and 1 and 2 were cleaned up."""
    first, late = Leases(tmp_path), Leases(tmp_path)
    lease = first.acquire("cell")
    assert lease is not None
    lease.release()
    create = lease_module._create

    def sleep_first(path: Path) -> int | None:
        monkeypatch.setattr(lease_module, "_create", create)
        for _ in range(2):
            inner = first.acquire("cell")
            assert inner is not None
            held.append(inner)
            if len(held) == 1:
                inner.release()
        return create(path)

    held: list[lease_module.Lease] = []
    monkeypatch.setattr(lease_module, "_create", sleep_first)
    assert late.acquire("cell") is None
    held[1].check()
    assert first.generations("cell") == [3]
    held[1].release()


def test_without_links_a_file_is_made_exclusively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "no links on this file system")

    monkeypatch.setattr(os, "link", refuse)
    lease = Leases(tmp_path).acquire("cell")
    assert lease is not None
    assert Leases(tmp_path).acquire("cell") is None
    lease.release()
    assert [p.name for p in tmp_path.iterdir()] == ["cell.000001.lease"]


def test_a_link_whose_answer_got_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_and_repeat(*arguments: object) -> None:
        link(*arguments)  # type: ignore[arg-type]
        link(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link_and_repeat)
    lease = Leases(tmp_path).acquire("cell")
    assert lease is not None
    lease.release()


@pytest.mark.parametrize("content", [b"", b"000000000000 held\n{", b"\xff" * 40], ids=["empty", "cut", "noise"])
def test_a_damaged_lease_expires_like_a_dead_one(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cell.000007.lease").write_bytes(content)
    leases, now = Leases(tmp_path, expiry_s=6), [0.0]
    monkeypatch.setattr(lease_module.time, "monotonic", lambda: now[0])
    for _ in range(6):
        assert leases.acquire("cell") is None
        now[0] += 1
    now[0] += 1
    lease = leases.acquire("cell")
    assert lease is not None
    lease.release()
    assert leases.generations("cell") == [8]


def test_acquire_on_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cell\.000001\.lease: no space left"):
        Leases(tmp_path).acquire("cell")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_later_does_not_end_the_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(tmp_path, expiry_s=0.3)
    lease = leases.acquire("cell")
    assert lease is not None

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    time.sleep(0.2)
    lease.check()
    lease.release()
    assert not lease.is_lost()


def test_release_leaves_no_thread_and_no_file_handle(tmp_path: Path) -> None:
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    leases = Leases(tmp_path)
    leases.acquire("warm-up").release()  # type: ignore[union-attr]
    before = handles(), threading.active_count()
    for _ in range(50):
        with leases.hold("cell"):
            pass
    assert (handles(), threading.active_count()) == before


def test_a_folder_that_was_deleted_and_made_anew_by_another_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    lease = Leases(folder, expiry_s=0.3).acquire("cell")
    assert lease is not None
    (folder / "cell.000001.lease").unlink()
    other = Leases(folder).acquire("cell")
    assert other is not None
    time.sleep(0.1)
    with pytest.raises(LeaseLostError):
        lease.check()
    lease.release()
    other.check()
    other.release()
