"""Memory: what is counted, and errors that say in other words that memory has run out."""
import pytest
import torch

from neuralode_resnet.datasets import Data
from neuralode_resnet.models import NeuralODE, is_out_of_memory, solve_memory
from neuralode_resnet.models.memory import kept_bytes
from neuralode_resnet.training import TrainingError, fit


def make_images(n=8, state=(3, 8, 8)):
    x = torch.randint(0, 256, (n, *state), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 2
    return Data("noise", x, y, x, y, 2)


TEXTS = [
    "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "HIP out of memory. Tried to allocate 2.00 GiB.",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "HIP error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED",
    "hipErrorOutOfMemory",
    "MPS backend out of memory (MPS allocated: 9.06 GB, other allocations: 1 MB, max allowed: 9.07 GB)",
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
    "[enforce fail at alloc_cpu.cpp:83] data. DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes",
    "std::bad_alloc",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_out_of_memory_says_what_would_need_less_whoever_ran_out(text, gradient, monkeypatch):
    data = make_images()
    model = NeuralODE.for_data(data, "euler@1/16", channels=8, gradient=gradient)

    def fail(*args, **kwargs):
        raise RuntimeError(text)

    monkeypatch.setattr("neuralode_resnet.training.cross_entropy", fail)
    with pytest.raises(TrainingError) as error:
        fit(model, data, iterations=2, batch_size=4, progress=False)
    assert "a smaller batch than 4" in str(error.value)
    assert "GB" in str(error.value)
    assert ("--gradient checkpoint" in str(error.value)) == (gradient == "backprop")


def test_the_errors_of_torch_of_python_and_of_numpy_count():
    from numpy import empty
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(MemoryError) as error:
        empty(2 ** 59, dtype="uint8")
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize("error", [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    TrainingError("training stopped at iteration 3, out of memory: 16 steps keep 4 GB", None),
    ValueError("out of memory"),
    KeyboardInterrupt(),
], ids=str)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_what_is_kept_does_not_depend_on_the_weights_being_known_twice():
    layer = torch.nn.Conv2d(3, 8, 3)
    x = torch.rand(2, 3, 8, 8)
    assert kept_bytes(lambda: layer(x), [*layer.parameters()] * 2) == x.numel() * 4


@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["alone", "ensemble"])
def test_the_default_device_does_not_matter(seed):
    data = make_images()
    model = NeuralODE.for_data(data, "dopri5@1e-2", channels=8, seed=seed)
    z = model.for_members(data.x_train[:1] / 255)
    model(z)
    plain = solve_memory(model.block, z, 4)
    with torch.device("meta"):
        assert solve_memory(model.block, z, 4) == plain > 0
