"""Pictures of lesions, and drawing on them in a browser."""

import json

import numpy as np
from desk_server import pictured, write_batch

from dermbatch import layout
from dermbatch.images import png
from dermbatch.records.outcome import KnownImage
from dermbatch.records.review import Decision
from dermbatch.review.masks import of_runs
from dermbatch.stages import Stage
from dermbatch.stored import write

HEIGHT, WIDTH = 240, 320


def lesion(seed, height=HEIGHT, width=WIDTH):
    """Skin with a darker lesion, and noise."""
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows - height / 2) / (height / 4)) ** 2 + ((columns - width / 2) / (width / 4)) ** 2 < 1
    pixels = np.where(inside[..., None], (120, 70, 60), (210, 160, 140)).astype(np.int16)
    noise = np.random.default_rng(seed).integers(-12, 13, (height, width, 1))
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def opened(seat, path):
    page = seat.go(path)
    seat.until("window.ready && viewer.idle")
    return page


def on_screen(page, x, y):
    """Where a place in the picture is in the window."""
    return page.evaluate(
        """([x, y]) => {
        const box = editor.canvas.getBoundingClientRect(), {view, ratio} = viewer, scale = view.zoom * ratio;
        const left = Math.round(editor.canvas.width / 2 - view.x * scale);
        const top = Math.round(editor.canvas.height / 2 - view.y * scale);
        return [box.left + (left + x * scale) / ratio, box.top + (top + y * scale) / ratio];
        }""",
        [x, y],
    )


def drag(page, *places):
    for n, place in enumerate(places):
        page.mouse.move(*on_screen(page, *place), steps=1 if n == 0 else 4)
        if n == 0:
            page.mouse.down()
    page.mouse.up()


def drawn(page):
    """The mask as the page has it: bool [H, W]."""
    counts = page.evaluate("editor.mask.counts()")
    height, width = page.evaluate("[editor.mask.height, editor.mask.width]")
    return of_runs(counts, height, width) > 0


def kept(seat, index, version=1, batch="rb"):
    """A decision as the store has it, and its mask."""
    found = seat.context.request.get(f"{seat.base}/v1/batches/{batch}/images/{index}/decisions").json()
    one = Decision.model_validate_json(
        json.dumps(next(one for one in found["decisions"] if one["version"] == version))
    )
    return one, of_runs(one.mask.counts, one.mask.height, one.mask.width) > 0


def write_lesions(store, name, folder, first=0):
    """A closed batch of eight pictures of lesions, drawn from this number on."""
    write_batch(store, name, [pictured(store, name, n, lesion(first + n)) for n in range(8)], folder)
    return name


def disc(x, y, radius, height=HEIGHT, width=WIDTH):
    rows, columns = np.mgrid[:height, :width]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def run_again(store, record, mask):
    """Have an image be segmented by another model since, in another batch."""
    segment = record.stages[Stage.SEGMENT]
    model = segment.model.model_copy(update={"version": "2"})
    changes = {"key": "f" * 32, "model": model, "inline": {"mask.png": png.encode(mask)}, "artifacts": {}}
    newer = segment.model_copy(update={**changes, "written": {}})
    image = {name: getattr(record.source, name) for name in type(record.source).__base__.model_fields}
    stages = {one.key: one for one in (*record.stages.values(), newer)}
    write(store, layout.known_of(record.source.sha256), KnownImage(image=image, stages=stages, previews={}))
