"Long states are called as written, and nothing as large as their matrices is made to find that out."
import pytest
import torch
from neuralode_resnet.models import ODEBlock
from neuralode_resnet.models.fields import Conv1dField
from neuralode_resnet.solvers.stacks import LONGEST, recognise, why_not
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    "Keeps the size of the largest tensor."
    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("dim", [LONGEST, LONGEST + 1, 900])
def test_a_sequence_is_recognised_up_to_the_length_where_that_is_faster(dim):
    torch.manual_seed(0)
    field, z = Conv1dField(8), torch.randn(3, 1, dim)
    assert (recognise(field, z) is not None) == (dim <= LONGEST)
    assert (why_not(field, z) is None) == (dim <= LONGEST)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_solve_of_900_numbers_makes_no_large_matrix(monkeypatch, dtype):
    monkeypatch.setattr("neuralode_resnet.solvers.stacks._torch_is_plain", lambda device: True)  # though we are watching
    torch.manual_seed(0)
    block, z = ODEBlock(Conv1dField(8), "euler@1/4").to(dtype), torch.randn(2, 1, 900, dtype=dtype)
    with Largest() as largest:
        block(z).sum().backward()
    assert 0 < largest.numbers <= 10 * 2 * 8 * 900
