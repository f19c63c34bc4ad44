"""Memory that is used again is never memory that something still refers to."""

from __future__ import annotations

import gc
import random
import threading

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stvg.cache.stores.buffers import Reused, aligned, fresh, memory_for


def take(memory: Reused, size: int, purpose: str = "c5") -> torch.Tensor:
    return memory(purpose, (size, 3), torch.float16)


def test_memory_is_used_again_once_its_tensor_is_gone():
    memory = Reused()
    first = take(memory, 100)
    place = first.data_ptr()
    del first
    assert take(memory, 80).data_ptr() == place


def test_memory_starts_at_a_cache_line_and_has_the_size_asked_for():
    for size in (1, 63, 64, 65, 4097, 1 << 20):
        block = aligned(size)
        assert (block.ctypes.data % 64, block.shape, block.flags.c_contiguous) == (0, (size,), True)
        assert take(Reused(), size).data_ptr() % 64 == 0


def test_any_view_keeps_the_memory():
    views = {
        "tensor": lambda t: t[3:],
        "numpy": lambda t: t.numpy()[1:],
        "numpy of numpy": lambda t: torch.from_numpy(t.numpy()[:, :2]),
        "other type": lambda t: t.view(torch.uint8),
        "detached": lambda t: t.detach().reshape(-1),
    }
    for name, view in views.items():
        memory = Reused()
        held = view(take(memory, 100).fill_(1))
        others = [take(memory, 100).fill_(2) for _ in range(3)]
        assert (np.asarray(held).view(np.uint8) != 0x40).all(), name  # 2.0 in float16 is 0x4000
        del others, held


def test_what_a_graph_saved_is_kept_until_it_is_gone():
    memory = Reused()
    weight = torch.ones(3, requires_grad=True)
    loss = (memory("c5", (4, 3), torch.float32).fill_(1) * weight).sum()
    memory("c5", (4, 3), torch.float32).fill_(7)
    loss.backward()
    assert weight.grad.tolist() == [4, 4, 4]


def test_purposes_do_not_share():
    memory = Reused()
    place = take(memory, 100, "c5").data_ptr()
    kept = take(memory, 100, "roi")
    assert take(memory, 100, "c5").data_ptr() == place
    assert kept.data_ptr() != place


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=60))
def test_live_tensors_never_overlap_and_blocks_are_no_more_than_were_alive_at_once(steps):
    gc.freeze()  # only what the test makes is looked through below
    memory, alive, most = Reused(), [], 0
    for mark, (size, drop) in enumerate(steps):
        alive.append((mark, take(memory, size).fill_(mark)))
        most = max(most, len(alive))
        if drop:
            alive.pop(random.Random(mark).randrange(len(alive)))
        assert all((tensor == expected).all() for expected, tensor in alive)
    del alive
    gc.collect()
    gc.unfreeze()
    free = memory._free.get("c5", [])
    assert len(free) <= most
    assert all(len(block) <= 60 * 6 for block in free)


def test_threads_may_take_and_drop_at_once():
    memory, wrong = Reused(), []

    def work(mark: int) -> None:
        for _ in range(300):
            tensor = take(memory, 50).fill_(mark)
            if not (tensor == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(memory._free["c5"]) <= 2 * len(threads), "a thread lets go of one tensor once it has the next"


def test_an_empty_tensor_can_be_had():
    assert Reused()("roi", (0, 16, 8), torch.float16).shape == (0, 16, 8)


def test_a_cpu_reads_into_used_memory_and_a_gpu_into_page_locked():
    assert isinstance(memory_for(torch.device("cpu")), Reused)
    chosen = memory_for(torch.device("cuda"))
    assert chosen.func is fresh
    assert chosen.keywords == {"pinned": True}
