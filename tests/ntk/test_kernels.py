"""Every kind of kernel against the whole Jacobian, closed forms and each other; any network; any memory budget."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from components.foundation.errors import InputError
from components.ntk import kernels
from components.ntk.accumulation import Kind
from components.ntk.differentiation import differentiable
from components.ntk.kernels import Kernels, tangent_kernels, trace_kernel
from components.ntk.memory import Needs, choose
from components.ntk.parameter_uses import survey
from tests.parts.tangent_networks import (
    NUM_CLASSES,
    brute_force,
    moved,
    random_images,
    relative_error,
    small_net,
    tiny_transformer,
    trace_of,
)

KINDS: tuple[Kind, ...] = ("per_class", "trace", "layerwise", "last_layer", "pseudo", "directions")
EXACT = 1e-12
NETWORKS = pytest.mark.parametrize("build", [small_net, tiny_transformer], ids=lambda build: build.__name__)


def both_ways(model: nn.Module, images: Tensor, memory: float | None = None) -> tuple[Kernels, Kernels]:
    """All kinds, with the full kernel and one logit at a time."""
    together = tangent_kernels(model, images, (*KINDS, "full"), memory=memory)
    return together, tangent_kernels(model, images, KINDS, memory=memory)


@NETWORKS
def test_all_kinds_are_parts_of_the_whole_jacobian(build: Callable[[], nn.Module]) -> None:
    model, images = build().double(), random_images(5).double()
    wanted = brute_force(model, images)
    by_class = wanted.diagonal(dim1=1, dim2=3).permute(2, 0, 1)
    together, one_by_one = both_ways(model, images)
    assert together["full"].dtype == torch.float64 and relative_error(together["full"], wanted) < EXACT
    for each in (together, one_by_one):
        assert each.choice.apart == ()
        assert relative_error(each["per_class"], by_class) < EXACT
        assert relative_error(each["trace"], trace_of(wanted)) < EXACT
        assert relative_error(each["pseudo"], wanted.sum((1, 3)) / NUM_CLASSES) < EXACT
    assert torch.equal(one_by_one["trace"], trace_kernel(model, images, "exact", 0))
    assert relative_error(one_by_one["directions"].mean(0), trace_kernel(model, images, 4, seed=0)) < EXACT
    assert relative_error(together["directions"], one_by_one["directions"]) < EXACT


@NETWORKS
def test_layers_add_up_to_the_trace_kernel_and_are_those_of_one_layer_alone(build: Callable[[], nn.Module]) -> None:
    model, images = build().double(), random_images(4).double()
    together, one_by_one = both_ways(model, images)
    assert together.layers == one_by_one.layers and len(set(together.layers)) == len(together.layers)
    assert relative_error(together["layerwise"], one_by_one["layerwise"]) < EXACT
    assert relative_error(one_by_one["layerwise"].sum(0), one_by_one["trace"]) < EXACT
    for name, kernel in zip(one_by_one.layers, one_by_one["layerwise"], strict=True):
        for each, parameter in model.named_parameters():
            parameter.requires_grad_(each == name or each.rpartition(".")[0] == name)
        assert relative_error(kernel, trace_of(brute_force(model, images))) < EXACT, name


def test_last_layer_is_the_gram_matrix_of_the_features() -> None:
    model, images = small_net().double(), random_images(4).double()
    features = []
    handle = model.get_submodule("head").register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    model.eval()(images)
    handle.remove()
    wanted = (features[0] @ features[0].T + 1).detach()
    together, one_by_one = both_ways(model, images)
    assert (
        relative_error(together["last_layer"], wanted) < EXACT
        and relative_error(one_by_one["last_layer"], wanted) < EXACT
    )
    # One logit's gradient by the head is the features themselves.
    head = one_by_one["layerwise"][one_by_one.layers.index("head")]
    assert relative_error(NUM_CLASSES * one_by_one["last_layer"], head) < EXACT
    with pytest.raises(InputError, match="do not come from a linear map"):
        tangent_kernels(nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.Tanh()), images.float(), {"last_layer"})


def test_two_layer_relu_network_has_its_closed_form() -> None:
    """Of V relu(W x): [c = d] <a_i, a_j> + <x_i, x_j> sum over h of V_ch V_dh [w_h x_i > 0] [w_h x_j > 0]."""
    torch.manual_seed(0)
    hidden, outputs = nn.Linear(192, 10, bias=False), nn.Linear(10, NUM_CLASSES, bias=False)
    model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), outputs).double()
    images = random_images(6).double() - 0.5
    flat = images.flatten(1)
    before = flat @ hidden.weight.T
    after, active = before.relu(), (before > 0).double()
    paths = torch.einsum("ch,ih,dh,jh->icjd", outputs.weight, active, outputs.weight, active)
    wanted = (flat @ flat.T)[:, None, :, None] * paths
    wanted += (after @ after.T)[:, None, :, None] * torch.eye(NUM_CLASSES)[:, None]
    full = tangent_kernels(model, images, {"full"})["full"]
    assert relative_error(full, wanted.detach()) < EXACT


@pytest.mark.parametrize(("images_at_once", "layers_at_once", "chunk"), [(5, 2, 100), (4, 3, 1000), (2, 9, 90)])
@NETWORKS
def test_kernels_do_not_depend_on_how_they_are_computed(
    build: Callable[[], nn.Module],
    images_at_once: int,
    layers_at_once: int,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, images = build().double(), random_images(5).double()
    wholes = both_ways(model, images)
    choice = wholes[0].choice._replace(images_at_once=images_at_once, layers_at_once=layers_at_once, chunk=chunk)
    monkeypatch.setattr(kernels, "choose", lambda needs, num_images, budget: choice)
    together, one_by_one = both_ways(model, images)
    for whole, part in zip(wholes, (together, one_by_one), strict=True):
        assert part.choice == choice and part.layers == whole.layers
        for kind in KINDS:
            assert relative_error(part[kind], whole[kind]) < EXACT, kind
    assert relative_error(together["full"], wholes[0]["full"]) < EXACT


@pytest.mark.parametrize("together", [1, NUM_CLASSES])
@NETWORKS
def test_less_memory_takes_smaller_pieces_then_fewer_layers_then_fewer_images(
    build: Callable[[], nn.Module], together: int
) -> None:
    model, images = build(), random_images(64)
    with differentiable(model, images):
        needs = Needs(survey(model, images), NUM_CLASSES, together, 1, 4)
    choices = [choose(needs, 64, None)]
    with pytest.raises(InputError, match=r"^memory: got .* MiB, want at least [12] for 64 images of this model$"):
        while True:
            budget = 0.9 * choices[-1].mib
            choices.append(choose(needs, 64, budget))
            assert choices[-1].mib <= budget
    keys = [(each.images_at_once, each.layers_at_once, each.chunk) for each in choices]
    assert keys == sorted(keys, reverse=True) and keys[0][:2] == (64, choices[0].num_layers) and keys[-1][0] < 16
    # The gradients of a transformer's layers are small beside its graph.
    fewer = min(layers for _, layers, _ in keys) < choices[0].num_layers
    assert not fewer if together == 1 else fewer or build is tiny_transformer


def test_single_precision_is_as_exact_as_it_can_be() -> None:
    for build in (small_net, tiny_transformer):
        model, images = build(), random_images(5)
        assert relative_error(tangent_kernels(model, images, {"full"})["full"], brute_force(model, images)) < 1e-5


def test_one_image_and_two_have_kernels() -> None:
    for build in (small_net, tiny_transformer):
        model, images = build().double(), random_images(3).double()
        whole = brute_force(model, images)
        for count in (1, 2):
            part = tangent_kernels(model, images[:count], {"full"})
            assert relative_error(part["full"], whole[:count, :, :count]) < EXACT and part.choice.apart == ()


def test_kinds_that_are_not_known_are_one_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(InputError, match="wanted: got ntk, want some of full, per_class, trace"):
        tangent_kernels(model, random_images(2), {"trace", "ntk"})  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="wanted: got nothing"):
        tangent_kernels(model, random_images(2), ())
    with pytest.raises(InputError, match="kernel: got full, want one that was asked for: pseudo, trace"):
        tangent_kernels(model, random_images(2), {"trace", "pseudo"})["full"]


class Network(nn.Module):
    """Parameters, and what is done with them and flat images [N, 4]."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self, images)


class Doubled(nn.Linear):
    """Looks like a layer of a known kind and computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Squared(torch.autograd.Function):
    """An operation that nothing outside can watch."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return inputs * weight**2

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        inputs, weight = ctx.saved_tensors
        return gradients[0] * weight**2, (gradients[0] * 2 * weight * inputs).sum(0)


def _in_place(net: Any, x: Tensor) -> Tensor:
    hidden = net.linear(x)
    hidden *= net.scale
    hidden.add_(net.shift)
    return net.linear2(hidden.tanh())


def _set_rows(net: Any, x: Tensor) -> Tensor:
    hidden = net.linear(x)[:, None].repeat(1, 2, 1)
    hidden[:, 0] = net.token.expand(len(x), -1) * net.scale
    return net.linear2(hidden.tanh().flatten(1))


def _chosen_row(net: Any, x: Tensor) -> Tensor:
    return net.linear(x * net.table[(x[:, 0] > 0).long() + (x[:, 1] > 0).long()])


def _transposed(net: Any, x: Tensor) -> Tensor:
    """Four tokens of one number each, before the images: with four images nobody can tell the axes by their length."""
    tokens = net.linear(x.T[:, :, None]) + net.table[:, None]
    return tokens.tanh().transpose(0, 1).flatten(1)


def _heads(net: Any, x: Tensor) -> Tensor:
    """Four heads before the images, with a bias for each."""
    by_head = x.T[:, :, None] * net.scale[:, None, None] + net.bias.expand(4, -1, -1)
    return by_head.tanh().transpose(0, 1).flatten(1)


def vector(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# Each with the number of parameters whose gradients are taken image by image.
ODD: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a subclass": (lambda: nn.Sequential(nn.Linear(4, 3), Doubled(3, 3)), 0),
    "one layer twice": (lambda: Network(lambda net, x: net.a(net.a(x).tanh()), a=nn.Linear(4, 4)), 2),
    "tied weights": (lambda: Network(lambda net, x: net.a(x).tanh() @ net.a.weight, a=nn.Linear(4, 5)), 1),
    "a weight without its layer": (lambda: Network(lambda net, x: x @ net.a.weight + net.a.bias, a=nn.Linear(4, 4)), 1),
    "a functional layer": (
        lambda: Network(lambda net, x: functional.linear(x, net.w, bias=net.b), w=vector(3, 4), b=vector(3)),
        0,
    ),
    "a scale for every image": (
        lambda: Network(lambda net, x: (x - net.b / 2) * net.w.exp(), w=vector(4), b=vector(1)),
        0,
    ),
    "a scale used twice": (lambda: Network(lambda net, x: (x * net.w).tanh() * net.w + (1 - net.w), w=vector(4)), 0),
    "a scale in place": (
        lambda: Network(_in_place, linear=nn.Linear(4, 3), linear2=nn.Linear(3, 3), scale=vector(3), shift=vector(3)),
        0,
    ),
    "rows that are set": (
        lambda: Network(
            _set_rows, linear=nn.Linear(4, 3), linear2=nn.Linear(6, 3), token=vector(1, 3), scale=vector(3)
        ),
        0,
    ),
    "a row chosen by the image": (lambda: Network(_chosen_row, table=vector(3, 4), linear=nn.Linear(4, 3)), 0),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 3), nn.PReLU(3), nn.Linear(3, 3)), 1),
    "weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 3)),
        3,
    ),
    "an operation of its own": (
        lambda: Network(lambda net, x: net.a(Squared.apply(x, net.w)), a=nn.Linear(4, 3), w=vector(4)),
        1,
    ),
    "images not first": (lambda: Network(_transposed, linear=nn.Linear(1, 2), table=vector(4, 2)), 3),
    "heads first": (lambda: Network(_heads, scale=vector(4), bias=vector(1, 1, 2)), 2),
    "attention of torch": (
        lambda: Network(
            lambda net, x: net.a(*[x[:, :, None].repeat(1, 1, 2)] * 3)[0].flatten(1),
            a=nn.MultiheadAttention(2, 1, batch_first=True),
        ),
        4,
    ),
    "a one-dimensional convolution": (
        lambda: Network(lambda net, x: net.a(x[:, None]).flatten(1), a=nn.Conv1d(1, 2, 3)),
        2,
    ),
    "group norm of vectors": (
        lambda: nn.Sequential(nn.Linear(4, 6), moved(nn.GroupNorm(2, 6)), nn.Tanh(), nn.Linear(6, 3)),
        0,
    ),
    "batch norm of vectors": (
        lambda: nn.Sequential(nn.Linear(4, 6), moved(nn.BatchNorm1d(6)), nn.Tanh(), nn.Linear(6, 3)),
        0,
    ),
    "a branch that is not used": (
        lambda: Network(
            lambda net, x: (net.b(x) * net.w, net.a(x))[1], a=nn.Linear(4, 3), b=nn.Linear(4, 3), w=vector(3)
        ),
        0,
    ),
    "a detached use": (
        lambda: Network(lambda net, x: net.a(x) * net.w.detach() + x[:, :3] * net.w, a=nn.Linear(4, 3), w=vector(3)),
        0,
    ),
}


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("name", ODD)
def test_a_parameter_may_enter_in_any_way(name: str) -> None:
    torch.manual_seed(0)
    model = ODD[name][0]().double()
    for count in (1, 2, 3, 4):
        images = torch.randn(count, 4, generator=torch.Generator().manual_seed(count)).double()
        wanted = brute_force(model, images)
        together, one_by_one = tangent_kernels(model, images, {"full"}), tangent_kernels(model, images, {"per_class"})
        assert relative_error(together["full"], wanted) < EXACT, count
        assert relative_error(one_by_one["per_class"], wanted.diagonal(dim1=1, dim2=3).permute(2, 0, 1)) < EXACT, count
        assert len(together.choice.apart) == ODD[name][1], (count, together.choice.apart)
