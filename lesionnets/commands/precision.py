"""``lesionnets precision``: writes a model of a repository again in another arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dermbatch.errors import UsageError
from dermbatch.stages import Stage
from lesionnets.commands.options import MADE, Images, Partial

if TYPE_CHECKING:
    from lesionnets.data.sources.isic import Sample
    from lesionnets.evaluation.models.predictors import LoadedModel
    from lesionnets.graphs.precision import Inputs


def precision(
    stage: Annotated[Stage, typer.Argument(help="Stage of the model.")],
    images: Images,
    repository: Annotated[
        Path, typer.Option(help="Triton model repository to write NAME_int8 into.", callback=MADE)
    ],
    masks: Annotated[
        Path | None, typer.Option(help="Experts' masks, for the classifier and for crops of lesions.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="model.onnx of a model repository; by default what ships, in float32.")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="Number of images to calibrate int8 with, spread evenly over the folder.")
    ] = 64,
    spare: Annotated[
        int, typer.Option(min=0, help="Number of the last convolutions that keep float32, of int8.")
    ] = 0,
    percentile: Annotated[
        float,
        typer.Option(
            min=99.0,
            max=100.0,
            help="Percentage of a tensor's values that its range in int8 holds; what is beyond is cut off.",
        ),
    ] = 100.0,
    float16: Annotated[
        bool, typer.Option("--float16", help="Use half precision, for GPUs, instead of bytes; needs no images.")
    ] = False,
    partial: Partial = False,
) -> None:
    """Write a model whose convolutions are computed in int8, calibrated on training images, or in float16."""
    import onnx  # noqa: PLC0415

    from lesionnets.evaluation import samples  # noqa: PLC0415
    from lesionnets.evaluation.models import predictors  # noqa: PLC0415
    from lesionnets.export import write_variant  # noqa: PLC0415
    from lesionnets.graphs.precision import Precision, to_float16, to_int8  # noqa: PLC0415

    if float16 and (spare or percentile != 100.0):
        raise UsageError("--spare and --percentile are of int8: leave them out with --float16")
    path = model or predictors.in_float32(Path(predictors.default_model(stage)))
    loaded = predictors.load_model(path, stage)
    if path.suffix != ".onnx" or not loaded.parameters:
        raise UsageError(f"{path} is not a model.onnx of a model repository: `lesionnets export` makes one")
    kind = Precision.FLOAT16 if float16 else Precision.INT8
    found = samples.with_masks(images, masks, partial=partial) if masks else samples.pictures(images)
    chosen = found.samples[:: max(len(found.samples) // count, 1)][:count]
    graph = onnx.load(path)
    if float16:
        made = to_float16(graph)
    else:
        made = to_int8(graph, _inputs(loaded, stage, chosen), spare=spare, percentile=percentile)
    typer.echo(write_variant(path, made, repository, kind))


def _inputs(model: LoadedModel, stage: Stage, samples: list[Sample]) -> Iterator[Inputs]:
    """What the model would be given of these images.

    Where it takes tiles, an enhancer, the middle of each and all of it as a poorer camera had taken it: noise and
    edges of a pixel's width have the largest values, and what exceeds a byte's range is cut off.
    """
    from lesionnets.data.degradations import SCALE, Degradation, degrade, own_random  # noqa: PLC0415
    from lesionnets.evaluation.classify import lesion_of  # noqa: PLC0415
    from lesionnets.evaluation.segment import read_picture  # noqa: PLC0415

    tile, scale = int(model.number("tile", 0)), int(model.number("scale", SCALE))
    for index, sample in enumerate(samples):
        image = read_picture(sample)
        if tile:
            top, left = (max(side - tile, 0) // 2 for side in image.shape[:2])
            yield {"IMAGE": image[None, top : top + tile, left : left + tile]}
            height, width = (side - side % scale for side in image.shape[:2])
            whole, how = image[:height, :width].copy(), list(Degradation)[index % len(Degradation)]
            yield {"IMAGE": degrade(whole, how, own_random(whole), scale=scale)[None]}
        elif stage is Stage.CLASSIFY:
            lesion = lesion_of(sample, image, None, native=False)
            yield {
                name: model.fitted(one, native=False)[None] for name, one in (("IMAGE", image), ("LESION", lesion))
            }
        else:
            yield {"IMAGE": model.fitted(image, native=False)[None]}
