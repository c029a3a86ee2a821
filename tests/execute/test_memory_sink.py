from __future__ import annotations

import torch

from surgery.execute.memory_sink import MemorySink
from surgery.tensors import TensorSpec


def test_stretches_of_several_workers_become_one_tensor():
    sink = MemorySink()
    writing = sink.begin(TensorSpec("w", (2, 2), "F32"))
    data = bytearray(torch.tensor([1.0, 2.0, 3.0, 4.0]).numpy().tobytes())
    late, early = writing.stretch(8), writing.stretch(0)
    late.write(memoryview(data[8:12]))
    early.write(memoryview(data[:8]))
    late.write(memoryview(data[12:]))
    assert not late.close()
    assert torch.equal(sink.tensors()["w"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


def test_an_empty_tensor_has_its_shape():
    sink = MemorySink()
    sink.begin(TensorSpec("e", (0, 3), "BF16")).stretch(0).write(memoryview(b""))
    assert sink.tensors()["e"].shape == (0, 3)
