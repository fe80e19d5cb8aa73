"""`dyno partition`: packs a model ahead of time for the bundled T5 engine, on CPU memory, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import click

from engines.api import EngineSpec
from engines.cache_folder import cache_root
from engines.models.folder import resolve_model
from engines.models.random_weights.t5_shapes import T5_SHAPES
from engines.serving_properties.write import spec_to_properties
from engines.t5.partition import partition
from harness.cli.signals import stopped_by_signals
from harness.units import mib_from_bytes

PROPERTIES = "serving.properties"


@click.command("partition", epilog="Exit codes: 0 ok, 2 usage, 3 model or machine.")
@click.argument("model", metavar="MODEL")
@click.option(
    "--dtype", default="fp32", show_default=True, help="Number type of the weights: fp32, bf16, int8, w8a8 or int4."
)
@click.option(
    "--tensor-parallel-degree",
    "degree",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of ranks.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Empty or new folder.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random weights, with a shape only.")
def command(model: str, dtype: str, degree: int, out: Path, seed: int) -> None:
    """Pack MODEL for the bundled T5 engine: one memory-mapped, hashed shard per rank.

    MODEL is a Hugging Face T5 folder, an s3:// prefix, a published shape (flan-t5-base: random weights) or a hub id.
    Needs no accelerator and holds one tensor at a time. The folder it writes has a serving.properties that serves it;
    a damaged or different shard is refused when it is loaded.

    \b
    Examples:
      dyno partition scenarios/assets/flan-t5-bench --dtype int8 --out /tmp/bench-int8
      dyno partition flan-t5-base --dtype int4 --tensor-parallel-degree 2 --out /tmp/base-int4-tp2
    """

    kind = model_kind(model)
    click.echo(f"{kind} {model}", err=True)
    folder = resolve_model(kind, model, seed, cache_root())
    spec = EngineSpec(engine="t5", model_dir=out.absolute(), dtype=dtype, tensor_parallel_degree=degree)
    with stopped_by_signals():
        done = partition(folder, dtype, degree, out, {PROPERTIES: spec_to_properties(spec)})
    for shard in done.shards:
        click.echo(f"wrote {done.folder / shard.name}", err=True)
    click.echo(f"{done.folder}: {len(done.shards)} shard(s), {mib_from_bytes(done.size_bytes):.1f} MiB, {dtype}")
    click.echo(f"Next: dyno serve --properties {done.folder / PROPERTIES}")


def model_kind(model: str) -> str:
    """What MODEL names: path, s3, shape or hub, in this order."""

    if Path(model).exists() or model.startswith((".", "/")):
        return "path"
    if model.startswith("s3://"):
        return "s3"
    return "shape" if model in T5_SHAPES else "hub"
