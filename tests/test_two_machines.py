"""Two machines: two network namespaces, joined by a cable, in which the host's name is a loopback address.

Needs root and `ip`; without them the namespaces cannot be made, and these tests are skipped.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_market, script_environment

from appearance import distributed
from appearance.cli import InputError
from appearance.interfaces import interface_of, is_of_this_machine_alone, own_address

NODES = (0, 1)
ADDRESSES = ("10.77.3.1", "10.77.3.2")
TINY = [
    "--data-dir",
    "data",
    "--model",
    "osnet_x0_25",
    "--height",
    32,
    "--width",
    16,
    "--workers",
    1,
    "--batch_size",
    8,
]
TINY += ["--device", "cpu", "--amp", "fp32", "--timeout", 20, "--output", "run"]


def ip(*words) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


def processes_in(name: str) -> list[str]:
    return subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()


def kill_all_in(name: str) -> None:
    for process in processes_in(name):
        subprocess.run(["kill", "-9", process], capture_output=True)


@pytest.fixture(scope="module")
def machines():
    """The names of two network namespaces that reach each other."""
    names = [f"reid{os.getpid()}n{node}" for node in NODES]
    cables = [f"c{os.getpid()}n{node}"[:15] for node in NODES]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1], "netns", names[1])
        for node in NODES:
            ip("-n", names[node], "addr", "add", f"{ADDRESSES[node]}/24", "dev", cables[node])
            ip("-n", names[node], "link", "set", cables[node], "up")
            hosts = Path("/etc/netns", names[node], "hosts")  # which `ip netns exec` puts in the place of /etc/hosts
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here ({error})")
    else:
        yield names
    finally:
        for name in names:
            kill_all_in(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
        with suppress(OSError):  # others' are there
            Path("/etc/netns").rmdir()


def torchrun(machines: list[str], folder, *flags, **environment) -> list[subprocess.Popen]:
    """README's line on both machines."""
    started = []
    for node, name in enumerate(machines):
        launch = ["--nnodes=2", f"--node_rank={node}", "--nproc_per_node=1", f"--master_addr={ADDRESSES[0]}"]
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *launch]
        command += ["--master_port=29500", str(ROOT / "train_multiGPU.py"), *map(str, [*TINY, *flags])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=folder, env=script_environment(**environment), **pipes))
    return started


def ends(processes: list[subprocess.Popen], timeout: float = 180) -> list[tuple[int, str]]:
    """Exit codes and stderr."""
    with ThreadPoolExecutor(len(processes)) as pool:
        texts = list(pool.map(lambda process: process.communicate(timeout=timeout)[1], processes))
    return [(process.returncode, text) for process, text in zip(processes, texts, strict=True)]


def test_two_machines_train_and_go_on_after_one_is_lost(machines, tmp_path):
    """That a resumed run equals one that was not interrupted is tested on one machine."""
    make_market(tmp_path / "data", train_ids=6, images=6)
    started = torchrun(machines, tmp_path, "--epochs", 2)
    while not (tmp_path / "run" / "last.pth").exists() and started[0].poll() is None:
        time.sleep(0.02)
    kill_all_in(machines[1])
    (code, errors), _ = ends(started)
    assert code != 0
    assert errors.count("failed: another process failed or does not answer") == 1, errors

    for code, errors in ends(torchrun(machines, tmp_path, "--resume")):
        assert code == 0, errors
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["epoch"] == 2


def test_an_interface_that_does_not_reach_the_other_is_a_sentence_on_both(machines, tmp_path):
    make_market(tmp_path / "data", train_ids=6, images=6)
    for code, errors in ends(torchrun(machines, tmp_path, "--epochs", 1, GLOO_SOCKET_IFNAME="lo"), timeout=90):
        assert code != 0
        assert "Connection refused" in errors
        assert re.search(r"set GLOO_SOCKET_IFNAME on each machine .* \(here: lo, c\d+n\d; now lo\)", errors), errors


def test_the_interface_is_the_one_with_the_address_of_the_way():
    assert own_address("127.0.0.1") == "127.0.0.1"
    assert is_of_this_machine_alone("127.0.1.1")
    assert is_of_this_machine_alone(own_address("no such host"))
    assert not is_of_this_machine_alone(ADDRESSES[0])
    if sys.platform == "linux":
        assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""


def test_a_host_that_does_not_exist_and_a_port_at_which_nobody_answers_are_told(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "PATIENCE", 0.5)
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(InputError, match=r"--master_addr no-such-host\.invalid: unknown host"):
        distributed._answering_host("env://", 1, 5)
    with pytest.raises(TimeoutError, match=r"rank 1 cannot reach rank 0 at 127\.0\.0\.1:1 \(Connection refused\)"):
        distributed._answering_host("tcp://127.0.0.1:1", 1, 1.5)
    assert capsys.readouterr().err.count("note: rank 1 cannot reach rank 0 at 127.0.0.1:1") == 1
    assert distributed._answering_host("tcp://127.0.0.1:1", 0, 5) == "127.0.0.1"  # there it answers itself


def test_what_fails_on_one_process_fails_on_all_at_once():
    store = torch.distributed.HashStore()

    def refuse():
        raise RuntimeError("refused\nat length")

    begin = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(distributed._all_or_none, threading.Event().wait, store, 0, 20)
        refused = pool.submit(distributed._all_or_none, refuse, store, 1, 20)
        for end in (waiting, refused):
            assert str(end.exception()) == f"{socket.gethostname()}, rank 1: refused"
    assert time.monotonic() - begin < 10
    with pytest.raises(TimeoutError, match="--timeout"):
        distributed._all_or_none(threading.Event().wait, torch.distributed.HashStore(), 0, 0.2)
