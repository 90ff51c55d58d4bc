"""Parts that are worked on side by side."""

from __future__ import annotations

import threading

import pytest
import torch

from lift3d_cli.machine.parallel import mapped, num_workers

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_parts_are_worked_on_at_a_time_each_on_one_thread_and_come_in_order():
    both = threading.Barrier(2, timeout=20)

    def work(part: int) -> tuple[int, int]:
        both.wait()  # for ever, if it were one after the other
        return part, torch.get_num_threads()

    assert list(mapped(work, range(6), CPU)) == [(part, 1) for part in range(6)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_to_come_have_as_many_threads_as_before():
    list(mapped(abs, range(3), CPU))
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [2]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("is_inference", [True, False])
def test_threads_make_no_gradients_and_inference_tensors_only_where_asked(is_inference):
    weight = torch.ones(2, requires_grad=True)
    with torch.inference_mode(is_inference):
        found = list(mapped(lambda part: part * weight, range(3), CPU))
    assert not any(x.requires_grad for x in found)
    assert [x.is_inference() for x in found] == [is_inference] * 3


@pytest.mark.usefixtures("two_threads")
def test_an_error_reaches_the_caller_and_ends_the_work():
    done = []

    def work(part: int) -> None:
        if part == 1:
            raise ValueError("part 1")
        done.append(part)

    before = threading.active_count()
    with pytest.raises(ValueError, match="part 1"):
        list(mapped(work, range(10_000), CPU))
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2


def test_one_part_at_a_time_where_torch_has_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert num_workers(CPU) == 1
        assert set(mapped(lambda _: threading.get_ident(), range(3), CPU)) == {threading.get_ident()}
    finally:
        torch.set_num_threads(before)


def test_a_gpu_gets_one_part_at_a_time():
    assert num_workers(torch.device("cuda")) == 1
