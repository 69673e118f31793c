"""What models find, as metrics."""

import pytest
from processed import IMAGE, Place
from prometheus_client import REGISTRY

from dermbatch.stages import Stage


def sample(name, **labels):
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_lesion_size_and_class_are_counted_by_model_where_a_stage_was_run():
    place = Place()
    record = place.run()
    segment, classify = (record.stages[stage] for stage in (Stage.SEGMENT, Stage.CLASSIFY))
    model = {"model": segment.model.name, "version": segment.model.version}
    its_class = {
        "model": classify.model.name,
        "version": classify.model.version,
        "label": classify.output.label,
    }
    before = (
        sample("dermbatch_lesion_share_sum", **model),
        sample("dermbatch_classified_images_total", **its_class),
    )
    place.run()  # from the cache: nothing new is found
    assert sample("dermbatch_lesion_share_sum", **model) == before[0]
    other = Place()
    other.run()
    share = segment.output.lesion.area_px / (IMAGE.shape[0] * IMAGE.shape[1])
    assert 0.1 < share < 0.3  # a disc of radius 80 in 400 x 300
    assert sample("dermbatch_lesion_share_sum", **model) - before[0] == pytest.approx(share)
    assert sample("dermbatch_classified_images_total", **its_class) == before[1] + 1
