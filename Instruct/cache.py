"""Keys and values of the tokens that a causal model has read, with room for those to come."""

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import DynamicCache, DynamicLayer

from common.device import JOBS, Device, free_memory

# Of a batch, answers included. On a CPU more are not faster; on a GPU a token costs its launches,
# for however many rows.
POSITIONS, ON_GPU = 2**14, 2**16


class Layer(DynamicLayer):
    """A layer's keys and values of `n` rows with `room` tokens each, all in one place.

    A token more is written there, not all copied. What is read goes to `rows`, from their token
    `first` on; before `rows` are read together, they can be read some at a time (`begin`).
    """

    def __init__(self, n: int, room: int):
        super().__init__()
        self.n, self.room, self.rows, self.first = n, room, slice(None), 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        kind = key_states.dtype
        if (where := key_states.device.type) == "cpu":
            kind = torch.float32  # see Attention
        elif torch.is_autocast_enabled(where):  # what has been turned by its position is float32
            kind = torch.get_autocast_dtype(where)
        # Zeros: what no row ever writes is hidden by the mask, but 0 times NaN is no 0.
        self.whole = [
            states.new_zeros((self.n, states.shape[1], self.room, states.shape[-1]), dtype=kind)
            for states in (key_states, value_states)
        ]

    def begin(self, rows: slice, first: int, last: int) -> None:
        """From now on the layer is `rows`, whose tokens `first` to `last` (not included) it has."""
        self.rows, self.first = rows, first
        if self.is_initialized:
            self._show(last)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Keys and values of all tokens so far, these included: `[batch, heads, tokens, size]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.first + self.get_seq_length()
        stop = start + key_states.shape[-2]
        for whole, states in zip(self.whole, (key_states, value_states), strict=True):
            whole[self.rows, :, start:stop] = states
        self._show(stop)
        return self.keys, self.values

    def _show(self, stop: int) -> None:
        self.keys, self.values = (w[self.rows, :, self.first : stop] for w in self.whole)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows of the batch."""
        stop = self.first + self.get_seq_length()
        self.whole = [whole[indices] for whole in self.whole]
        self._show(stop)


class Cache(DynamicCache):
    """An empty cache; layers that see a window of a few tokens are the library's own, and small."""

    def __init__(self, config, n: int, room: int):
        super().__init__(config=config)
        self.layers = [Layer(n, room) if type(of) is DynamicLayer else of for of in self.layers]

    def divisible(self) -> bool:
        """Whether rows can be read some at a time."""
        return all(isinstance(layer, Layer) for layer in self.layers)

    def begin(self, rows: slice, first: int, last: int) -> None:
        """See `Layer.begin`."""
        for layer in self.layers:
            layer.begin(rows, first, last)


class Attention(TorchFunctionMode):
    """On a CPU attention in float32: for one query its bf16 takes two to three times as long."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or args[0].device.type != "cpu":
            return func(*args, **kwargs)
        query, key, value, *more = args
        with torch.autocast("cpu", enabled=False):
            found = func(query.float(), key.float(), value.float(), *more, **kwargs)
        return found.to(query.dtype)


def batch_positions(config, device: Device) -> int:
    """How many positions a batch may have, answers included.

    POSITIONS or ON_GPU, or those whose keys and values fit into half the free memory, shared with
    the processes beside this one.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    on_cpu = device.torch_device.type == "cpu"
    bytes_ = 4 if on_cpu or device.precision == "fp32" else 2
    one = 2 * bytes_ * config.num_hidden_layers * heads * size
    most = POSITIONS if on_cpu else ON_GPU
    return min(most, free_memory(device) // 2 // JOBS // one)
