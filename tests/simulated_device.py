"""A second device for machines without one: tensors that claim to be elsewhere, and refuse what a GPU would refuse.

Their numbers lie on the CPU, so that results can be compared with those of the CPU. What makes a processor wait
for a GPU is counted, with the line of the package that asked for it:

    with SimulatedDevice() as device:       # has_float64=False: as on Apple's GPUs
        fit(model.to(device.name), data.to(device.name), 3)
        assert device.waits <= 3, device.blame()

Counted as a wait: reading a number (`.item()`), a result whose shape only the device knows (`nonzero`, masks as
indices), and every copy between the two memories, which PyTorch waits for unless it is pinned and asynchronous.
"""
import importlib
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from neuralode_resnet.solvers import stacks

NAME = "meta"  # a device type that needs no driver, and whose gradients are computed in the calling thread
PACKAGE = "neuralode_resnet/"

# Kernels that take no number of the CPU's in the place of a tensor, not even a 0-dimensional one.
ALL_ON_DEVICE = {
    "_fused_adam_", "addmm", "baddbmm", "bmm", "cat", "convolution", "equal", "gather", "index_select", "isin", "mm",
    "native_batch_norm", "nll_loss_forward", "scatter", "searchsorted", "stack",
}
# The processor needs their result, or the result's shape.
WAITING = {
    "_local_scalar_dense", "_unique2", "equal", "is_nonzero", "masked_select", "nonzero", "repeat_interleave",
    "unique_consecutive", "unique_dim",
}
INDEXING = {"_index_put_impl_", "index", "index_put", "index_put_"}
DRAWING = {
    "bernoulli", "bernoulli_", "native_dropout", "normal", "normal_", "rand", "rand_like", "randint", "randn",
    "randn_like", "randperm", "uniform_",
}


class DeviceError(RuntimeError):
    "What a GPU would refuse."


class DeviceTensor(torch.Tensor):
    "A tensor of the simulated device; `numbers` is the tensor on the CPU that holds them."
    @staticmethod
    def __new__(cls, numbers, requires_grad=False):
        return torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype, layout=numbers.layout, device=NAME, requires_grad=requires_grad,
        )

    def __init__(self, numbers, requires_grad=False):
        self.numbers = numbers

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if SimulatedDevice.current is None:
            raise DeviceError(f"{func} after the end of the simulation")
        return SimulatedDevice.current.compute(func, args, kwargs or {})

    def numpy(self, *args, **kwargs):
        raise DeviceError("can't convert a device tensor to numpy: use Tensor.cpu() first")

    __array__ = numpy

    def data_ptr(self):
        raise DeviceError("the address of a device tensor was asked for")

    def tolist(self):
        return self.detach().cpu().tolist()

    def __repr__(self):
        return f"DeviceTensor({self.numbers!r})"


def is_there(device):
    "Is this the simulated device?"
    return device is not None and torch.device(device).type == NAME


def numbers_of(tree):
    "`tree` with tensors of the CPU in the place of those of the device."
    return tree_map(lambda leaf: leaf.numbers if isinstance(leaf, DeviceTensor) else leaf, tree)


class _SeenType(type):
    "A substitute for `type` in a module that compares exact types: tensors of the device have those of a GPU's."
    def __call__(cls, *args):
        if len(args) == 1 and isinstance(args[0], DeviceTensor):
            return torch.nn.Parameter if isinstance(args[0], torch.nn.Parameter) else torch.Tensor
        return type(*args)

    def __instancecheck__(cls, instance):
        return isinstance(instance, type)


class SeenType(metaclass=_SeenType):
    "What `stacks` gets for `type`."


class SimulatedDevice(TorchDispatchMode):
    "Within the block, `name` is a device like a GPU."
    current = None
    name = NAME

    def __init__(
        self,
        has_float64=True,  # False: float64 is refused, as on Apple's GPUs
        folds=True,        # False: fields are called as written, as where a hook is on them
    ):
        super().__init__()
        self.has_float64 = has_float64
        self.folds = folds
        self.generator = torch.Generator().manual_seed(1234)
        self.is_capturing = False
        self.reset()

    def reset(self):
        "Begin to count anew."
        self.sites = Counter()  # (what, file, line) -> how often
        self.operations = 0

    @property
    def waits(self):
        "How often the processor had to wait for the device."
        return sum(self.sites.values())

    def blame(self, n=8):
        "The lines that made it wait most, as text."
        return "; ".join(f"{times} × {what} at {place}" for (what, place), times in self.sites.most_common(n))

    def note(self, what):
        "Count a wait, and the innermost line of the package."
        frame = sys._getframe(1)
        while frame is not None and PACKAGE not in frame.f_code.co_filename:
            frame = frame.f_back
        place = "a test"
        if frame is not None:
            place = f"{frame.f_code.co_filename.split(PACKAGE)[-1]}:{frame.f_lineno} ({frame.f_code.co_name})"
        if self.is_capturing:
            raise DeviceError(f"operation not permitted while a graph is captured: {what} at {place}")
        self.sites[what, place] += 1

    @contextmanager
    def capturing(self):
        "Within the block a wait is an error, as it is while CUDA captures a graph."
        self.is_capturing = True
        try:
            yield
        finally:
            self.is_capturing = False

    def wrap(self, tree, known=None):
        "`tree` with tensors of the device in the place of the CPU's; results in place are the tensors they were."
        known = known or {}

        def wrap_one(leaf):
            if not isinstance(leaf, torch.Tensor) or isinstance(leaf, DeviceTensor):
                return leaf
            if id(leaf) in known:
                return known[id(leaf)]
            if leaf.dtype == torch.float64 and not self.has_float64:
                raise DeviceError("cannot convert a tensor to float64: the device has none")
            return DeviceTensor(leaf)

        return tree_map(wrap_one, tree)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.compute(func, args, kwargs or {})

    def compute(self, func, args, kwargs):
        "One operation of PyTorch."
        name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        theirs = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
        ours = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
        asked = kwargs.get("device")
        if name == "_efficientzerotensor":  # zeros of autograd, which hold no memory on any device
            zeros = torch.zeros(args[0], dtype=kwargs.get("dtype"))
            return self.wrap(zeros) if is_there(asked) else zeros
        if not theirs and not is_there(asked):
            return func(*args, **kwargs)
        self.operations += 1
        here = {**kwargs, "device": torch.device("cpu")} if asked is not None else kwargs
        goes_there = bool(theirs) if asked is None else is_there(asked)
        if name == "_to_copy":
            if bool(theirs) != goes_there and not kwargs.get("non_blocking"):
                self.note("copy to the CPU" if theirs else "copy to the device")
            out = func(*numbers_of(args), **numbers_of(here))
            return self.wrap(out) if goes_there else out
        if name in ("_copy_from", "_copy_from_and_resize", "copy_"):
            if ours:
                self.note("copy to the device" if isinstance(args[0], DeviceTensor) else "copy to the CPU")
            func(*numbers_of(args), **numbers_of(kwargs))
            return args[0]
        if theirs and ours:
            self.check_places(name, args, tensors, ours)
        self.look_for_waits(name, args)
        known = {id(tensor.numbers): tensor for tensor in theirs}
        with self.drawing(name, kwargs):
            out = func(*numbers_of(args), **numbers_of(here))
        return self.wrap(out, known) if goes_there or not theirs else out

    def check_places(self, name, args, tensors, ours):
        "Raise `DeviceError` where an operation mixes the two memories."
        if name in INDEXING and isinstance(args[0], DeviceTensor):
            return self.note("copy of an index to the device")
        if name in ALL_ON_DEVICE or any(tensor.dim() for tensor in ours):
            places = [(tuple(t.shape), "device" if isinstance(t, DeviceTensor) else "cpu") for t in tensors]
            raise DeviceError(f"{name}: expected all tensors to be on the same device, found {places}")

    def look_for_waits(self, name, args):
        "Count the operation if its result, or the shape of it, has to reach the processor."
        by_mask = name == "index" and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or by_mask:
            self.note("wait for " + name.strip("_"))

    @contextmanager
    def drawing(self, name, kwargs):
        "Random numbers of the device come from its own generator, and from no other."
        if name not in DRAWING:
            yield
            return
        if kwargs.get("generator") is not None:
            raise DeviceError("expected a generator of the device but found one of the CPU")
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.generator.get_state())
            yield
            self.generator.set_state(torch.get_rng_state())

    def __enter__(self):
        SimulatedDevice.current = self
        self.stack = ExitStack()
        for target, name, value in self.replacements():
            self.stack.enter_context(mock.patch.object(target, name, value, create=True))
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # or a parameter keeps its old numbers
        self.stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, before)
        return super().__enter__()

    def __exit__(self, *error):
        try:
            return super().__exit__(*error)
        finally:
            self.stack.close()
            SimulatedDevice.current = None

    def replacements(self):
        "What has to be replaced in PyTorch, and in the package, as (object, name, value)."
        for module in map(importlib.import_module, ("torch.optim.adam", "torch.optim.optimizer", "torch.utils._foreach_utils")):
            for name in ("_get_foreach_kernels_supported_devices", "_get_fused_kernels_supported_devices"):
                if hasattr(module, name):
                    kinds = [*getattr(module, name)(), NAME]
                    yield module, name, lambda kinds=kinds: kinds
        yield torch, "save", _saving(torch.save)
        yield torch, "load", _loading(torch.load)
        yield torch, "tensor", _making(torch.tensor)
        yield torch, "as_tensor", _making(torch.as_tensor)
        yield torch.cuda, "is_initialized", lambda: True
        yield torch.cuda, "get_rng_state_all", lambda: [self.generator.get_state()]
        yield torch.cuda, "set_rng_state_all", lambda states: self.generator.set_state(states[0])
        if self.folds:
            yield stacks, "type", SeenType
            yield stacks, "_torch_is_plain", _is_plain_but_for_the_simulation


def _is_plain_but_for_the_simulation(device, own=stacks._torch_is_plain):
    "As `stacks._torch_is_plain`, which would take the simulation for somebody who looks inside."
    with mock.patch.object(torch._C, "_len_torch_dispatch_stack", lambda: 0):
        return own(torch.device("cpu") if is_there(device) else device)


def _saving(save):
    "`torch.save` for trees with tensors of the device, which are files like any other."
    def saved(tree, *args, **kwargs):
        plain = tree_map(lambda leaf: leaf.detach().numbers if isinstance(leaf, DeviceTensor) else leaf, tree)
        return save(plain, *args, **kwargs)
    return saved


def _loading(load):
    "`torch.load`, also to the device."
    def loaded(file, map_location=None, **kwargs):
        if not is_there(map_location):
            return load(file, map_location=map_location, **kwargs)
        tree = load(file, map_location="cpu", **kwargs)
        return tree_map(lambda leaf: leaf.to(NAME) if isinstance(leaf, torch.Tensor) else leaf, tree)
    return loaded


def _making(own):
    "`torch.tensor` or `torch.as_tensor`, which make tensors of this device below all that can be replaced."
    def made(data, *args, device=None, **kwargs):
        where = torch.get_default_device() if device is None and not isinstance(data, torch.Tensor) else device
        if not is_there(where):
            return own(data, *args, **kwargs) if device is None else own(data, *args, device=device, **kwargs)
        if isinstance(data, torch.Tensor):
            return data.to(NAME, kwargs.get("dtype") or data.dtype)
        return own(data, *args, device="cpu", **kwargs).to(NAME)
    return made
