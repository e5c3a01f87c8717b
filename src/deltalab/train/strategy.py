"""How the processes of a trial divide its model: whole on each (DDP), or a share on each (FSDP2, HSDP).

Whatever the strategy, a step takes the sum over all processes of the gradients of their rows. Under FSDP every
parameter is a DTensor of which a process holds some rows; a block's are gathered when it computes and given back after
it. What linear layers multiply by is gathered in bf16 where that is the precision, as autocast would cast it; gates'
rates, norms, convolutions and the embedding stay fp32, so that a trial computes the same numbers under every strategy.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import set_checkpoint_early_stop

from deltalab.errors import ConfigError
from deltalab.model.language_model import LanguageModel
from deltalab.model.memory import fitting_strategy
from deltalab.spec.train import Precision, Strategy, TrainSpec
from deltalab.spec.trial import TrialSpec
from deltalab.train.distributed import World
from deltalab.train.loss import Scorer


def choose(spec: TrialSpec, world: World, device: torch.device) -> Strategy:
    """The strategy of a trial here, the same on every rank: as its spec says, or what fits the main rank's GPU."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    nodes = world.size // world.local_size
    return world.share(fitting_strategy(spec, device.type == "cuda", world.size, nodes, memory))


def make_replica(scorer: Scorer, train: TrainSpec, strategy: Strategy, world: World) -> nn.Module:
    """A module that computes as ``scorer`` does and whose backward pass sums the gradients over all ranks.

    With shares, the parameters of ``scorer`` are others afterwards: an optimiser is made then.

    Args:
        scorer: with its initial values, the same on every rank.
        train: precision and ``shard_size``.
        strategy: any but auto.
        world: the ranks.

    Raises:
        ConfigError: ``shard_size`` does not divide the ranks.
    """
    if world.size == 1:
        return scorer
    if strategy is Strategy.ddp:
        replica = DistributedDataParallel(scorer, gradient_as_bucket_view=True)
        replica.register_comm_hook(None, _summed)
        return replica
    return _in_shares(scorer, train, strategy, world)


def _in_shares(scorer: Scorer, train: TrainSpec, strategy: Strategy, world: World) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    kind, sharers = scorer.model.embedding.device.type, _sharers(train, strategy, world)
    shape = (sharers,) if sharers == world.size else (world.size // sharers, sharers)
    mesh = init_device_mesh(kind, shape, mesh_dim_names=("replicas", "shares")[-len(shape) :])
    products = MixedPrecisionPolicy()
    if train.precision is Precision.bf16:
        products = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in scorer.model.blocks:
        linears: list[nn.Module] = [module for module in block.modules() if isinstance(module, nn.Linear)]
        fully_shard(linears, mesh=mesh, mp_policy=products)
        fully_shard(block, mesh=mesh)
    fully_shard(scorer, mesh=mesh, reshard_after_forward=False)
    for module in scorer.modules():
        if isinstance(module, FSDPModule):  # sums, where FSDP by itself takes the mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return scorer


def _sharers(train: TrainSpec, strategy: Strategy, world: World) -> int:
    if strategy is Strategy.fsdp:
        return world.size
    sharers = train.shard_size or world.local_size
    if world.size % sharers:
        allowed = f"a divisor of the {world.size} processes (null is those of a node, {world.local_size} here)"
        raise ConfigError("train.shard_size", "null" if train.shard_size is None else sharers, allowed)
    return sharers


@contextlib.contextmanager
def one_pass(replica: nn.Module, last: bool) -> Iterator[None]:
    """Around the forward and backward pass of a part of a batch; gradients are summed over all ranks by its last part.

    Under FSDP the shares of every part's gradients are summed at once, so that none is ever held whole; replicas of
    shares wait for the last part.
    """
    with contextlib.ExitStack() as held:
        if isinstance(replica, DistributedDataParallel) and not last:
            held.enter_context(replica.no_sync())
        elif hasattr(replica, "set_requires_all_reduce"):
            replica.set_requires_all_reduce(last)  # pyright: ignore[reportCallIssue]
            held.enter_context(
                set_checkpoint_early_stop(False)
            )  # or linear layers computed again would wait for the last
        yield


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is a process's share of a larger one: a DTensor, whose package is slow to import."""
    return hasattr(tensor, "full_tensor")


def has_shares(module: nn.Module) -> bool:
    """Whether processes divide a module's parameters among them."""
    return any(map(is_share, module.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; of a share every rank of its mesh asks at the same moment."""
    return tensor.full_tensor() if is_share(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """What a process holds of a whole tensor where ``like`` is a share, all of it where it is not; on its device."""
    tensor = tensor.to(like.device)
    if not is_share(like):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # every rank has all of it


@torch.no_grad()
def whole_model(model: LanguageModel, spec: TrialSpec) -> LanguageModel:
    """A model that a rank can compute with by itself: this one, or where it holds shares a copy with all weights.

    Every rank asks at the same moment; the copy takes 4 bytes a parameter until it is let go.
    """
    if not has_shares(model):
        return model
    with torch.device("meta"):
        copy = LanguageModel(spec.variant, spec.model)
    copy.load_state_dict({name: whole(parameter) for name, parameter in model.named_parameters()}, assign=True)
    return copy.requires_grad_(False)


def _summed(
    state: None,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """Communication hook: the sum, where DistributedDataParallel by itself takes the mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None, "asked for asynchronously"
    return work.get_future().then(lambda future: future.value()[0])
