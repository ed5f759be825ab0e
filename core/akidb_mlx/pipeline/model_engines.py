"""What a loaded model is made of: weights, the engine that computes with them, tokenizers; each can be made again."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from akidb_mlx.checkpoint.heads import HeadFacts, JointHead
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.checkpoint.unchanged import Stamps
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.options import ModelOptions
from akidb_mlx.device.choice import Device
from akidb_mlx.effective.recipe import AnyRecipe
from akidb_mlx.engine.companions import Companions
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.engine.model_engine import Engine
from akidb_mlx.engine.residency import Residence
from akidb_mlx.engine.scheduler import Scheduler
from akidb_mlx.pipeline.joint_engines import join
from akidb_mlx.pipeline.tokenizer import Tokenizer
from akidb_mlx.pipeline.tokenizer_processes import TokenizerProcesses

if TYPE_CHECKING:
    from akidb_mlx.model.heads.base import Head
    from akidb_mlx.model.network import Network

__all__ = ["LOCATION_FIELDS", "join_engine", "make_engine", "share_out", "start_loading", "tokenizer_maker"]

# Settled once the files are found.
LOCATION_FIELDS = frozenset({"model", "revision", "cache_dir", "local_files_only"})


def start_loading(config: ModelConfig, recipe: AnyRecipe, head: HeadFacts) -> "Future[Network]":
    """The weights, read on a device thread."""
    return DEVICE_THREADS.run(partial(_load_network, config, recipe, head))


def _load_network(config: ModelConfig, recipe: AnyRecipe, head: HeadFacts, stamps: Stamps | None = None) -> "Network":
    """The weights; with `stamps` those of before, or CheckpointError. On a device thread."""
    from akidb_mlx.model.loading import load_model

    device, checkpoint = recipe.device, recipe.checkpoint
    if stamps is not None:
        stamps.refuse_changed(checkpoint.name)
    if config.cache_limit_mb is not None:
        DEVICE_THREADS.set_cache_limit(config.cache_limit_mb)

    def make_room(size: int) -> None:
        DEVICE_THREADS.residency.make_room(size, device.memory, f"for {checkpoint.name}")

    with device.stream():
        network = load_model(checkpoint, head, device, config.dtype, make_room)
    if device.kind == "cpu":  # weights that were laid out anew leave as much behind
        DEVICE_THREADS.clear_cache()
    return network


def make_engine(
    config: ModelConfig,
    recipe: AnyRecipe,
    model: "Network",
    head: HeadFacts,
    stamps: Stamps,
    companions: Companions | None = None,
) -> Engine:
    """The engine of loaded weights, which it can have freed and loaded again from the same files."""
    device, limits = recipe.device, [recipe.max_seq_length, *recipe.side_lengths.values()]
    again = partial(_load_network, config, recipe, head, stamps)
    residence = Residence(recipe.checkpoint.name, model.parameter_bytes(), again, device.memory)
    scheduler = Scheduler(
        config.max_batch_tokens or device.max_batch_tokens,
        config.query_latency_target_ms / 1000,
        None if None in limits else max(length for length in limits if length is not None),
        device.shapes,
        lanes=max(1, device.cpu_lanes),
        full_batch_s=device.full_batch_ms / 1000,
        first_batch_tokens=device.first_batch_tokens,
        cost=model.activation_bytes,
        max_rows=model.head.max_rows,
        by_task=bool(model.adapted),
        gathers=device.plans_shapes,
    )
    return Engine(
        model,
        scheduler,
        config.max_queued_tokens or device.max_queued_tokens,
        survives_fork=device.survives_fork,
        cpu_lanes=device.cpu_lanes,
        plans_shapes=device.plans_shapes,
        memory=device.memory,
        cost=model.activation_bytes,
        form=model.head,
        companions=companions,
        residence=residence,
        cache_limit_mb=device.cache_limit_mb if config.cache_limit_mb is None else None,
    )


def join_engine(
    config: ModelConfig, recipe: AnyRecipe, kind: str, stamps: Stamps
) -> "tuple[Engine, Head, Callable[[], None], int]":
    """The engine that all kinds of this checkpoint with these settings share, with this kind's head in it."""

    def make() -> Engine:
        network = start_loading(config, recipe, JointHead()).result()
        return make_engine(config, recipe, network, JointHead(), stamps, Companions())

    def load(network: "Network") -> "Head":
        from akidb_mlx.model.loading import load_own_head

        with recipe.device.stream():
            return load_own_head(network, recipe.head, recipe.checkpoint)

    not_of_the_model = LOCATION_FIELDS | {"on_overlong", "keep_alive"}
    own = [name for name in ModelOptions.model_fields if name not in not_of_the_model]
    key = (recipe.checkpoint.path.resolve(), *(getattr(config, name) for name in own))
    return join(key, kind, make, load)


def share_out(tokenizer: Tokenizer, config: ModelConfig, device: Device) -> Tokenizer:
    """The tokenizer, with processes for the texts of long calls where the device wants them."""
    count = device.tokenizer_processes if config.tokenizer_processes is None else config.tokenizer_processes
    if count:
        tokenizer.processes = TokenizerProcesses(count)
    return tokenizer


def tokenizer_maker(checkpoint: ModelFacts, config: ModelConfig) -> Callable[[int | None], Tokenizer]:
    """Limit → tokenizer."""
    rebuilt = checkpoint.rebuilt_tokenizer(config.tokenizer)
    return partial(
        Tokenizer,
        checkpoint.tokenizer_file,
        do_lower_case=checkpoint.do_lower_case,
        truncation_side=checkpoint.truncation_side or rebuilt.truncation_side,
        state=rebuilt.state,
        split_special_tokens=rebuilt.split_special_tokens,
        vocab_size=checkpoint.config.get("vocab_size"),
        **checkpoint.tokenizer_rules,
    )
