"""Queues at two replicas on real servers: each image to as many readers as it is for, and to nobody twice."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest
from desk_server import Server, write_batch

from dermbatch.records.access import Role
from dermbatch.records.plan import Planned, ReviewPlan
from dermbatch.records.review import Case
from dermbatch.review.leases import Leases
from dermbatch.review.plans import keep_plan
from dermbatch.store import ObjectStore
from tests.outcome_samples import failure_of, result_of

IMAGES = 12


@pytest.fixture(scope="module")
def servers(redis_settings, object_store_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    with (
        Server(redis_settings, object_store_settings, folder) as one,
        Server(redis_settings, object_store_settings, folder) as other,
    ):
        yield one, other


@pytest.fixture
def batch(request, object_store_settings, tmp_path_factory):
    """A batch of a name of its own: results of growing certainty, and a failure."""
    store = ObjectStore(object_store_settings)
    name = f"rq-{abs(hash(request.node.name)) % 10**8}"
    records = [
        result_of(name, n, probabilities=(0.4 + n / 30, 0.6 - n / 30, 0.0), flags=("no_lesion",) * (n % 2))
        for n in range(IMAGES)
    ]
    write_batch(store, name, [*records, failure_of(name, IMAGES)], tmp_path_factory.mktemp("t"))
    return name


@pytest.fixture
def reader(servers):
    """Makes a reader at one of the replicas."""
    opened = []

    def made(name, replica=0):
        context = servers[replica].client(name)
        opened.append(context)
        return context.__enter__()

    yield made
    for context in opened:
        context.__exit__(None, None, None)


def make(client, batch, **asked):
    answer = client.post("/v1/queues", json={"name": asked.pop("name", batch), **{"batches": [batch], **asked}})
    assert answer.status_code == 201, answer.text
    return answer.json()


def following(client, name, **asked):
    answer = client.post(f"/v1/queues/{name}/next", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def decide(client, case, **fields):
    path = f"/v1/batches/{case['batch']}/images/{case['index']}/decisions"
    found = client.get(path).json()
    sent = {"version": found["next_version"], "stages": found["stages"], "shown": False, **fields}
    answer = client.post(path, json=sent)
    assert answer.status_code == 201, answer.text
    return answer.json()


def order_of(client, name):
    """Images in the order in which one reader is handed them who decides each."""
    handed = []
    while (case := following(client, name)["case"]) is not None:
        handed.append(case["index"])
        decide(client, case)
    return handed


def test_two_replicas_hand_each_image_to_one_reader(servers, reader, batch):
    make(reader("ada"), batch)
    clients = [reader(f"reader {n}", n % 2) for n in range(4)]

    def all_of(client):
        return order_of(client, batch)

    with ThreadPoolExecutor(4) as pool:
        handed = [index for found in pool.map(all_of, clients) for index in found]
    assert sorted(handed) == list(range(IMAGES))
    (queue,) = clients[0].get(f"/v1/queues?name={batch}").json()
    assert (queue["images"], queue["open"], queue["readings"]) == (IMAGES, 0, IMAGES)


def test_an_image_for_two_is_handed_to_two_and_never_to_one_twice(reader, batch):
    make(reader("ada"), batch, readers=2)
    with ThreadPoolExecutor(3) as pool:
        clients = [reader(f"second {n}", n % 2) for n in range(3)]
        found = list(pool.map(lambda client: order_of(client, batch), clients))
    assert all(len(set(one)) == len(one) for one in found)
    assert set(Counter(index for one in found for index in one).values()) == {2}


def test_a_lease_that_is_not_held_on_goes_to_the_next_reader(servers, reader, batch):
    ada, bo = reader("ada"), reader("bo", 1)
    make(ada, batch, most=1)
    case = following(ada, batch)["case"]
    offer = following(bo, batch)
    assert (offer["case"], offer["none_left"], offer["held"]) == (None, True, 1)
    assert following(ada, batch)["case"] == case  # hers still
    assert ada.post(f"/v1/queues/{batch}/leases", json=case).status_code == 200
    assert bo.post(f"/v1/queues/{batch}/leases", json=case).json()["reason"] == "not_leased"
    servers[0].desk.redis.hset(f"review:case:{batch}/{case['index']}", "ada", 1)  # long ago
    assert following(bo, batch)["case"] == case
    assert ada.post(f"/v1/queues/{batch}/leases", json=case).status_code == 409
    decide(ada, case)  # hers is kept anyway
    assert ada.delete(f"/v1/queues/{batch}/leases/{batch}/{case['index']}").status_code == 204
    decide(bo, case)
    assert following(reader("eve"), batch)["none_left"]


def test_what_is_given_back_or_passed_over_goes_on(reader, batch):
    ada, bo = reader("ada"), reader("bo")
    make(ada, batch, most=2)
    first = following(ada, batch)["case"]
    second = following(ada, batch, after=first)["case"]
    assert first != second
    assert following(bo, batch)["none_left"]
    ada.delete(f"/v1/queues/{batch}/leases/{batch}/{first['index']}")
    assert following(bo, batch)["case"] == first


def test_what_redis_has_lost_is_found_in_the_store(servers, reader, batch):
    ada, bo = reader("ada"), reader("bo")
    make(ada, batch, most=3)
    done = [following(ada, batch)["case"] for _ in range(1)]
    decide(ada, done[0])
    for key in servers[0].desk.redis.scan_iter(f"review:case:{batch}/*"):
        servers[0].desk.redis.delete(key)
    assert following(bo, batch)["case"]["index"] == 1
    assert following(ada, batch)["case"]["index"] == 2


def test_what_is_returned_comes_first_and_to_its_reader_alone(servers, reader, batch):
    ada, bo = reader("ada"), reader("bo", 1)
    make(ada, batch)
    case = following(ada, batch)["case"]
    decide(ada, case)
    path = f"/v1/batches/{batch}/images/{case['index']}/decisions"
    assert [one["reader"] for one in bo.get(f"{path}?open=true").json()["decisions"]] == ["ada"]
    decide(bo, case, kind="return", to="ada", comment="look at the upper border")
    for lose in (False, True):
        if lose:  # also by the store alone
            keys = [f"review:case:{batch}/{case['index']}", "review:returned:ada"]
            servers[0].desk.redis.delete(*keys)
        assert following(bo, batch)["case"] != case
        offer = following(ada, batch)
        assert offer["case"] == case
        assert offer["returned"] == {"by": "bo", "comment": "look at the upper border"}
    decide(ada, case)
    assert following(ada, batch)["case"] != case
    last = ada.get(path).json()["decisions"]
    assert [(one["reader"], one["kind"]) for one in last] == [("ada", "read"), ("bo", "return"), ("ada", "read")]


def test_the_most_uncertain_by_flag_by_chance_and_by_a_set(reader, batch):
    ada = reader("ada")
    make(ada, batch, order="uncertainty", most=3)
    assert order_of(ada, batch) == [3, 2, 4]  # 0.5, then 0.467 and 0.533, which are as uncertain
    make(ada, batch, name=f"{batch}-flag", q="flag:no_lesion", most=4)
    assert order_of(reader("flags"), f"{batch}-flag") == [1, 5, 7]  # 3 has been read
    eve = reader("eve")
    for seed in (1, 2):
        make(eve, batch, name=f"{batch}-{seed}", order="chance", seed=seed, most=5, readers=9)
    by_chance = [order_of(reader(f"chance {seed}"), f"{batch}-{seed}") for seed in (1, 2)]
    assert by_chance[0] != by_chance[1]
    eve.patch("/v1/sets/doubtful", json={"add": {batch: [8, 2]}})
    make(eve, batch, name=f"{batch}-set", q="set:doubtful", readers=9)
    assert order_of(reader("sets"), f"{batch}-set") == [2, 8]
    eve.delete("/v1/sets/doubtful")


def test_known_cases_are_handed_to_all_and_nobody_is_told_which_they_are(reader, batch):
    ada, chief = reader("ada"), reader("chief")
    chief.patch("/v1/sets/gold", json={"add": {batch: [9, 10, 11]}})
    refused = chief.post("/v1/queues", json={"name": batch, "batches": [batch], "known": "gold"})
    assert (refused.status_code, refused.json()["reason"]) == (400, "nothing_known")
    for index in (9, 10):
        decide(chief, {"batch": batch, "index": index}, kind="adjudicate", diagnosis=["nevus"])
    queue = make(chief, batch, most=8, known="gold", known_share=0.2)
    assert queue["images"] == 10
    assert not {"known", "cases"} & set(queue)
    assert sorted(order_of(ada, batch)) == [*range(8), 9, 10]
    assert sorted(order_of(reader("bo"), batch)) == [9, 10]
    assert following(chief, batch)["none_left"]  # whoever has adjudicated them reads none
    chief.delete("/v1/sets/gold")


def test_a_share_begins_blank_the_same_whenever_it_is_asked(reader, batch):
    ada = reader("ada")
    make(ada, batch, blank_share=0.5, readers=9)
    blank = []
    for index in range(IMAGES):
        held = [ada.post(f"/v1/queues/{batch}/leases", json={"batch": batch, "index": index}).json() for _ in "12"]
        assert held[0]["blank"] == held[1]["blank"]
        blank.append(held[0]["blank"])
    assert 2 <= sum(blank) <= 10
    make(ada, batch, name=f"{batch}-blind", blind=True, readers=9)
    offer = following(ada, f"{batch}-blind")
    assert (offer["blind"], offer["blank"]) == (True, True)


@pytest.fixture
def plain_reader(servers, request):
    """A program that has no role but a reader's."""
    key, made = servers[0].recognition.keys.add(
        f"r{abs(hash(request.node.name)) % 10**8}", (Role.READER,), "ada", 1, None
    )
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=servers[0].url, headers=headers, timeout=60) as client:
        yield client
    servers[0].recognition.keys.revoke(made.id, "ada", None)


def test_whoever_reads_an_image_blind_is_shown_nothing_that_models_found_of_it(reader, plain_reader, batch):
    make(reader("ada"), batch, blind=True, most=2, readers=2)
    case = following(plain_reader, batch)["case"]
    here = f"/v1/batches/{batch}/images/{case['index']}"
    answer = plain_reader.get(here)
    assert set(answer.json()["result"]["stages"]["classify"]) == {"key", "model"}
    assert answer.json()["labels"] == ["melanoma", "nevus", "seborrheic_keratosis"]
    assert "probabilities" not in answer.text
    of_image = (
        "record",
        "preview.jpg",
        "files/mask.png",
        "outline",
        "masks/model",
        "layers/purified",
        "similar",
        "fhir",
    )
    tables = (f"/v1/results?batch={batch}", f"/v1/exports/csv?batch={batch}", f"/dicom-web/{batch}/studies")
    pages = (
        f"/image/{batch}/{case['index']}",
        f"/similar/{batch}/{case['index']}",
        f"/v1/batches/{batch}/files/report.html",
    )
    for path in (*(f"{here}/{one}" for one in of_image), *tables, *pages):
        answer = plain_reader.get(path, headers={"accept": "application/json"})
        assert (answer.status_code, answer.json()["reason"]) == (403, "reading_blind"), path
    assert plain_reader.get(f"{here}/layers/original").json()["reason"] != "reading_blind"
    other = f"/v1/batches/{batch}/images/{(case['index'] + 5) % IMAGES}"
    assert plain_reader.get(other).json()["result"]["stages"]["classify"]["output"]
    assert decide(plain_reader, case)["seen"]["shown"] is False
    assert plain_reader.get(f"{here}/record").status_code == 200, "decided"


def test_whoever_has_looked_before_has_been_shown_it(reader, plain_reader, batch):
    make(reader("ada"), batch, blind=True, readers=9)
    looked, listed, unseen = ({"batch": batch, "index": index} for index in (0, 1, 2))
    plain_reader.get(f"/v1/batches/{batch}/images/0/masks/model")
    assert plain_reader.get(f"/v1/results/rows?batch={batch}&ids=0:1").status_code == 200
    plain_reader.get(f"/v1/batches/{batch}/images/2?findings=false")
    for case, shown in ((looked, True), (listed, True), (unseen, False)):
        held = plain_reader.post(f"/v1/queues/{batch}/leases", json=case).json()
        assert held["looked"] is shown
        assert decide(plain_reader, case)["seen"]["shown"] is shown


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        ({"name": "No Name"}, 400, "usage"),
        ({"q": "flag:never_raised"}, 400, "nothing_meant"),
        ({"q": "flag:["}, 400, "bad_query"),
        ({"known": "none such"}, 400, "usage"),
        ({"blank_share": 1.5}, 400, "usage"),
        ({"batches": ["never"]}, 404, "usage"),
    ],
)
def test_a_queue_that_is_none_is_refused(reader, batch, asked, status, reason):
    answer = reader("ada").post("/v1/queues", json={"name": batch, "batches": [batch], **asked})
    assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text


def test_a_plan_is_read_in_its_order(servers, reader, batch, object_store_settings):
    store = ObjectStore(object_store_settings)
    images = tuple(
        Planned(batch=name, index=index, sha256="ab" * 32, reason="random")
        for name, index in ((batch, 7), ("deleted", 1), (batch, 2), (batch, IMAGES), (batch, 4))
    )
    made = {"made": datetime.now(UTC), "strategy": "random", "seed": 0, "among": 9}
    keep_plan(store, ReviewPlan(name=batch, images=images, **made))
    ada = reader("ada")
    queue = make(ada, batch, batches=[], plan=batch)
    assert (queue["images"], queue["how"]) == (3, f"plan {batch}: all images of {batch}")
    assert order_of(ada, batch) == [7, 2, 4]  # the last one failed, and a batch is gone
    assert make(ada, batch, name=f"{batch}-q", plan=batch, q="flag:no_lesion")["images"] == 1
    for asked, status, reason in (({"plan": "never"}, 404, "no_plan"), ({}, 400, "usage")):
        answer = ada.post("/v1/queues", json={"name": f"{batch}-x", **asked})
        assert (answer.status_code, answer.json()["reason"]) == (status, reason), answer.text


def test_a_name_is_taken_once(reader, batch):
    make(reader("ada"), batch)
    answer = reader("ada").post("/v1/queues", json={"name": batch, "batches": [batch]})
    assert answer.json()["reason"] == "name_taken"
    assert reader("ada").post("/v1/queues/never/next", json={}).status_code == 404


def test_leases_of_one_reader_are_in_no_others_way(servers):
    leases = Leases(servers[0].desk.redis)
    cases = [(Case(batch="leases", index=n), 1) for n in range(450)]
    assert leases.take("ada", cases) == 0
    assert leases.take("bo", cases) == 1
    for case, _ in cases[:420]:
        leases.done(case, "ada")
    assert leases.take("ada", cases) == 420  # beyond what one script looks at
    others = [(Case(batch="more leases", index=n), 1) for n in range(450)]
    assert leases.take("bo", others[430:431]) == 0
    assert leases.take("bo", others) == 430, "the one that is held, though others before it are free"
    assert leases.standing([cases[1][0]])[0]["ada"] == "read"
