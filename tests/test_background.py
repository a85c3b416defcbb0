"""Files written in the background: in order, of what was true when it was asked for, and no failure is lost."""

import threading

import pytest
import torch
from conftest import paint

from appearance.data import images
from appearance.training.background import BackgroundWriter, snapshot


def test_all_is_written_in_order_before_the_context_ends():
    written, go = [], threading.Event()
    with BackgroundWriter() as write:
        write(lambda: go.wait(10))
        for number in range(5):
            write(written.append, number)
        assert written == []
        go.set()
    assert written == [0, 1, 2, 3, 4]


def test_after_a_failure_nothing_more_is_written():
    def full():
        raise OSError("disk full")

    written = []
    write = BackgroundWriter()
    write(full)
    write(written.append, 1)
    with pytest.raises(OSError, match="disk full"):
        write.wait()
    write(written.append, 2)
    write.wait()
    assert written == []
    with pytest.raises(OSError, match="disk full"), BackgroundWriter() as another:
        another(full)
    another = BackgroundWriter()
    another(full)
    with pytest.raises(KeyError), another:  # what went wrong first is told
        raise KeyError


def test_a_snapshot_does_not_change_and_shares_what_was_shared():
    weight, count = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), torch.tensor(3)
    wanted = weight.clone()
    history = [{"loss": 1.0}]
    taken = snapshot({"net": {"w": weight, "n": count}, "same": [weight.detach()], "history": history, "name": "net"})
    weight.zero_()
    count += 1
    history.append({})
    assert torch.equal(taken["net"]["w"], wanted)
    assert taken["net"]["w"].is_contiguous(memory_format=torch.channels_last)
    assert taken["same"][0].data_ptr() == taken["net"]["w"].data_ptr()
    assert (taken["net"]["n"], taken["history"], taken["name"]) == (3, [{"loss": 1.0}], "net")


def test_an_image_is_decoded_once_within_the_budget(tmp_path, monkeypatch):
    paths = [str(paint(tmp_path / f"{number}.png", size=(16, 32), seed=number)) for number in range(3)]
    decoded, plain = [], images.load_rgb
    monkeypatch.setattr(images, "load_rgb", lambda path: decoded.append(path) or plain(path))
    load = images.Decoded(2 * 3 * 16 * 32)
    for _ in range(3):
        for path in paths:
            assert load(path).tobytes() == plain(path).tobytes()
    assert decoded == [*paths, paths[2], paths[2]]  # the third did not fit
