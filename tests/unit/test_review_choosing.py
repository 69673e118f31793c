"""What is chosen to be read next: each strategy by numbers that can be checked, and plans of closed batches."""

from collections import Counter
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from standins import Store

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import BatchSummary
from dermbatch.records.review import Decision, Seen
from dermbatch.review.choosing import START, Candidates, choose, divergence, entropy, middles
from dermbatch.review.kept import keep
from dermbatch.review.plans import plan_of
from dermbatch.stages import Stage
from orchestrator.learning.planning import make_plan
from orchestrator.reporting.table.columns import as_parquet
from tests.outcome_samples import (
    CREATED,
    batch_of,
    entry_of,
    failure_of,
    result_of,
    table_of,
    write_manifest,
    write_record,
)

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


def some(count, seed=0, classes=3, **changes):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, 8)).astype(np.float32)
    shares = random.dirichlet(np.ones(classes) / 2, count).astype(np.float32)
    told = {"embeddings": vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "probabilities": shares}
    return Candidates(**{**told, **changes})


def reasons(chosen):
    return Counter(one.reason for one in chosen)


@pytest.mark.parametrize("strategy", ["entropy", "diversity", "disagreement", "random"])
def test_every_strategy_has_a_random_arm_no_image_twice_and_the_same_with_the_same_seed(strategy):
    among = some(200, disagreement=np.linspace(0, 1, 200))
    found = choose(among, strategy, 100, np.random.default_rng(1))
    assert len({one.number for one in found}) == 100
    assert reasons(found)["random"] == (100 if strategy == "random" else 20)
    assert found == choose(among, strategy, 100, np.random.default_rng(1))
    assert found != choose(among, strategy, 100, np.random.default_rng(2))


@pytest.mark.parametrize("strategy", ["entropy", "diversity", "random"])
@pytest.mark.parametrize(("there", "count"), [(5, 100), (1, 1), (1, 5), (3, 3), (200, 1), (200, 2)])
def test_of_few_images_all_are_chosen(strategy, there, count):
    assert len(choose(some(there), strategy, count, np.random.default_rng(0))) == min(there, count)


@pytest.mark.parametrize("known", [0, 3])
def test_of_copies_none_is_chosen_twice(known):
    same = np.tile(some(1).embeddings, (20, 1))
    among = some(20, embeddings=same, known=same[:known] if known else np.zeros((0, 1), np.float32))
    assert len({one.number for one in choose(among, "diversity", 20, np.random.default_rng(0))}) == 20


def test_the_start_is_made_over_clusters_and_then_comes_doubt():
    first = choose(some(300), "entropy", 100, np.random.default_rng(0))
    assert reasons(first) == {"cluster": START, "entropy": 30, "random": 20}
    later = choose(some(300, known=some(START).embeddings), "entropy", 100, np.random.default_rng(0))
    assert reasons(later) == {"entropy": 80, "random": 20}


def test_doubt_is_taken_from_each_class_alike_and_what_is_in_doubt_comes_sooner():
    random = np.random.default_rng(3)
    shares = np.full((600, 3), 0.01, np.float32)
    shares[np.arange(600), np.where(np.arange(600) < 30, 0, 1)] = 0.98  # one in twenty is of the first class
    doubted = random.permutation(600)[:150]
    shares[doubted] = 0.7 * shares[doubted] + 0.1
    among = some(600, probabilities=shares, known=some(START).embeddings)
    chosen = [
        one.number for one in choose(among, "entropy", 50, np.random.default_rng(0)) if one.score is not None
    ]
    assert sum(number < 30 for number in chosen) == 20  # half of 40
    assert np.isin(chosen, doubted).mean() > 0.35  # a quarter of all


def test_clusters_are_each_represented_by_their_middle():
    centres = np.eye(4, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 0.05, (40, 4)).astype(np.float32)
    vectors = np.repeat(centres, 10, axis=0) + noise
    found = middles(vectors, 4, np.random.default_rng(0))
    assert [number // 10 for number in found] == [0, 1, 2, 3]
    for number in found:
        mine = vectors[number // 10 * 10 :][:10]
        assert np.linalg.norm(mine - mine.mean(axis=0), axis=1).argmin() == number % 10


def test_diversity_keeps_away_from_what_is_known_and_from_itself():
    corners = np.concatenate([np.eye(4), 0.999 * np.eye(4)[:1], [[0.02, 0, 0, 0.999]]]).astype(np.float32)
    among = some(6, embeddings=corners, known=corners[:1])
    found = choose(among, "diversity", 4, np.random.default_rng(0))
    apart = [one.number for one in found if one.reason == "diversity"]
    assert {number % 3 for number in apart} <= {0, 1, 2}
    assert 0 not in apart
    assert 4 not in apart
    assert not {3, 5} <= set(apart)


def test_disagreement_is_between_models_and_says_where_there_is_none():
    one, other = np.array([0.9, 0.1], np.float32), np.array([0.1, 0.9], np.float32)
    assert divergence([one, one]) == pytest.approx(0, abs=1e-9)
    assert divergence([one, other]) == pytest.approx(np.log(2) - entropy(one[None])[0])
    among = some(10, disagreement=np.array([np.nan] * 7 + [0.1, 0.5, 0.3]))
    found = choose(among, "disagreement", 3, np.random.default_rng(0))
    assert {one.number for one in found if one.reason == "disagreement"} == {8, 9}
    with pytest.raises(UsageError, match="nothing to disagree on"):
        choose(some(10, disagreement=np.full(10, np.nan)), "disagreement", 3, np.random.default_rng(0))


# Of closed batches


def close(store, name, records, **changes):
    batch = batch_of(name, images=len(records), **changes)
    write_manifest(store, batch, [entry_of(index) for index in range(len(records))])
    for record in records:
        write_record(store, record)
    store.put(layout.table(name), as_parquet(table_of(records)), "")
    times = {"created": CREATED, "closed": CREATED, "first_started": None, "last_finished": None}
    counts = {"images": len(records), "done": len(records), "failed": 0, "reasons": {}, "stage_seconds": {}}
    summary = BatchSummary(
        name=name, state="finished", stage_runs={}, image_seconds=0, slots=1, software="0", **times, **counts
    )
    store.put(layout.summary(name), summary.to_json(), "")


def result(batch, index, shares=(0.4, 0.3, 0.3), model=None, **changes):
    vector = np.random.default_rng(index).normal(size=4).astype(np.float32)
    record = result_of(batch, index, probabilities=shares, vector=vector, **changes)
    if model is not None:
        stage = record.stages[Stage.CLASSIFY]
        used = stage.model.model_copy(update={"sha256": model * 32})
        stages = record.stages | {Stage.CLASSIFY: stage.model_copy(update={"model": used})}
        record = record.model_copy(update={"stages": stages})
    return record


@pytest.fixture
def store():
    made = Store()
    close(made, "first", [*(result("first", index) for index in range(8)), failure_of("first", 8)])
    close(made, "second", [result("second", 5), result("second", 9), result("second", 10, area=0)])
    return made


def planned(store, name="p", strategy="entropy", count=50, **asked):
    made = make_plan(store, name, strategy, count, **asked)
    assert plan_of(store, name) == made
    return made, sorted((one.batch, one.index) for one in made.images)


def test_each_image_of_closed_batches_can_be_chosen_once(store):
    made, images = planned(store)
    assert images == [*(("first", index) for index in range(8)), ("second", 9)]
    assert (made.among, made.left_out) == (9, {"failed": 1, "twice": 1, "no_lesion": 1})


def test_an_image_whose_embedding_has_no_direction_is_left_out_alone(store):
    flat = result("third", 21).model_copy(update={"index": 0})
    close(store, "third", [flat, result("third", 22).model_copy(update={"index": 1})])
    body = pq.read_table(BytesIO(store.get("results", layout.table("third"))))
    vectors = pa.array([[0.0] * 4, *body["embedding"].to_pylist()[1:]], body["embedding"].type)
    at = body.column_names.index("embedding")
    store.put(layout.table("third"), as_parquet(body.set_column(at, "embedding", vectors)), "")
    made, images = planned(store)
    assert ("third", 1) in images
    assert ("third", 0) not in images
    assert made.left_out["no_direction"] == 1


def test_what_was_read_or_planned_is_not_chosen_again(store):
    record = result("first", 5)
    stages = {stage: one.key for stage, one in record.stages.items()}
    seen = Seen(sha256=record.source.sha256, stages=stages, shown=True, blank=False)
    keep(store, Decision(batch="first", index=5, reader="ada", version=1, made=NOW, seen=seen))
    made, images = planned(store, count=3)
    assert not {("first", 5), ("second", 5)} & set(images)  # the same picture in both
    rest, others = planned(store, "q")
    assert not set(images) & set(others)
    assert (made.left_out["read"], rest.left_out["planned"]) == (2, 3)
    with pytest.raises(UsageError, match=r"no image is left to choose from: .* planned"):
        planned(store, "r")


def test_models_disagree_where_several_have_seen_an_image(store):
    again = [
        result("third", index, (0.1, 0.8, 0.1) if index == 3 else (0.4, 0.3, 0.3), "cd") for index in (0, 1, 3)
    ]
    close(store, "third", again)
    made, _ = planned(store, strategy="disagreement", count=2)
    by_reason = {one.reason: one for one in made.images}
    assert by_reason["disagreement"].index == 3
    assert by_reason["disagreement"].score > 0.05
    assert made.left_out["other_model"] == 3


def test_what_another_tenant_has_planned_is_nothing_to_one(store):
    close(store, "theirs", [result("theirs", 5).model_copy(update={"index": 0})], tenant="b")
    assert ("first", 5) in planned(store)[1]
    made, images = planned(store, "q", tenant="b")
    assert (images, made.left_out) == ([("theirs", 0)], {})


def test_other_tenants_open_and_missing_batches_are_refused(store):
    close(store, "theirs", [result("theirs", 20)], tenant="clinic-b")
    assert ("theirs", 0) not in planned(store)[1]
    assert planned(store, "b", tenant="clinic-b")[1] == [("theirs", 20)]
    with pytest.raises(UsageError, match="no batch 'theirs' of tenant 'default'"):
        planned(store, "q", batches=["theirs"])
    with pytest.raises(UsageError, match="there is no batch 'fourth'"):
        planned(store, "q", batches=["fourth"])
    write_manifest(store, batch_of("fourth", images=1), [entry_of(0)])
    with pytest.raises(UsageError, match="'fourth' is not closed yet"):
        planned(store, "q", batches=["fourth"])
    with pytest.raises(UsageError, match="there is a plan 'p' already"):
        planned(store)
    with pytest.raises(UsageError, match="there is no closed batch to choose from"):
        planned(store, "q", tenant="clinic-c")
