"""Generators, what they make, how it is marked, and how it is compared with originals."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from calling import call
from PIL import Image

from benchmarks import generated_lesions
from dermbatch.errors import UsageError
from dermbatch.images.imagefile import read_image
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.data.batches.lesion_views import Lesion
from lesionnets.data.by_class import ByClass
from lesionnets.data.sources import ham10000
from lesionnets.data.sources.isic import Sample
from lesionnets.evaluation.figures.frechet import frechet_distance, precision_and_recall
from lesionnets.evaluation.generated.duplicates import EmbeddingFile, forms
from lesionnets.evaluation.generated.likeness import evaluate
from lesionnets.evaluation.generated.making import TrainingPictures, drawn, load_generator
from lesionnets.evaluation.models.predictors import default_model, load_model
from lesionnets.losses.varied import varied
from lesionnets.nets.generate.dcgan import DcganDiscriminator, DcganGenerator
from lesionnets.nets.generate.principal import Principal
from lesionnets.recipes.generate import generate_coupled, generate_dcgan
from lesionnets.training import RecipeOptions
from lesionnets.weights import generator_of

THREE = ("melanoma", "nevus", "seborrheic_keratosis")


def test_networks_have_the_papers_size_and_seven_classes() -> None:
    with torch.device("meta"):
        generator = DcganGenerator(ham10000.DIAGNOSES, size=256)
        discriminator = DcganDiscriminator(ham10000.DIAGNOSES, size=256)
        assert (len(generator.ends), len(discriminator.ends)) == (7, 7)
        # One class: indices of several are data, which the meta device has not.
        made = DcganGenerator(("mel",), 256)(torch.zeros(2, 10), torch.zeros(2, dtype=torch.long))
        judged = DcganDiscriminator(("mel",), 256)(made, torch.zeros(2, dtype=torch.long))
    assert (made.shape, judged.shape) == ((2, 3, 256, 256), (2,))
    with pytest.raises(ValueError, match="48 pixels"):
        DcganGenerator(("mel",), size=48)


def test_classes_share_their_first_layers_and_rows_keep_their_order() -> None:
    torch.manual_seed(0)
    network = DcganGenerator(THREE, size=32, width=0.02).eval()
    latent = torch.randn(1, 10).expand(4, -1)
    with torch.inference_mode():
        mixed = network(latent, torch.tensor([2, 0, 1, 2]))
        alone = network(latent[:1], torch.tensor([0]))
    torch.testing.assert_close(mixed[0], mixed[3])
    torch.testing.assert_close(mixed[1], alone[0])
    assert (mixed[1] - mixed[2]).abs().max() > 1e-4
    network(latent, torch.zeros(4, dtype=torch.long))[:, 0].sum().backward()
    assert network.dense.weight.grad is not None
    assert all(parameter.grad is None for parameter in network.ends[1].parameters())


def test_batches_have_as_many_of_each_class() -> None:
    pictures = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 3, 9, 9)
    labels = torch.tensor([0] * 17 + [1] * 2 + [2])
    for shown, told in ByClass(pictures, labels, 8, each=4, steps=3):
        assert shown.shape == (12, 3, 8, 8)
        assert labels[shown[:, 0, 0, 0].long()].tolist() == told.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_discriminator_learns_at_every_third_step_of_the_generator() -> None:
    torch.manual_seed(0)
    generator = DcganGenerator(("melanoma",), size=32, width=0.02)
    discriminator = DcganDiscriminator(("melanoma",), size=32, width=0.02)
    batch = (torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    drawing = generate_dcgan.Drawing(Principal(*batch, 10, torch.device("cpu")))
    optimiser = torch.optim.Adam(generator.parameters(), lr=1e-3)
    adversary = generate_dcgan.DcganAdversary(discriminator, optimiser, drawing)
    learnt = []
    for _ in range(6):
        before = discriminator.shared[0].bias.clone()  # type: ignore[union-attr]
        adversary(generator, batch).backward()  # type: ignore[no-untyped-call]
        learnt.append(bool((discriminator.shared[0].bias != before).any()))  # type: ignore[union-attr]
    assert learnt == [True, False, False] * 2
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_principal_components_are_as_latent_vectors_are() -> None:
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    found = Principal(pictures, labels, 4, torch.device("cpu"))
    forms = torch.cat([pictures.rot90(turn, (2, 3)) for turn in range(4)])
    forms = torch.cat([forms, forms.flip(3)]).float() / 255
    components = found(forms, labels.repeat(8))
    for label in range(2):
        of_class = components[labels.repeat(8) == label]
        torch.testing.assert_close(of_class.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-3)
        torch.testing.assert_close(of_class.std(dim=0, correction=0), torch.ones(4), rtol=0, atol=1e-2)


def test_pictures_are_varied_and_gradients_pass() -> None:
    torch.manual_seed(0)
    pictures = torch.rand(3, 3, 16, 16, requires_grad=True)
    seen = varied(pictures)
    seen.sum().backward()
    assert seen.shape == pictures.shape
    assert pictures.grad is not None
    assert (pictures.grad != 0).any(dim=(1, 2, 3)).all()
    assert (seen[0] - seen[0].detach().mean()).abs().max() > 0.05


def test_distances_of_sets_are_those_of_the_books() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(400, 4))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one + 3) == pytest.approx(36, rel=1e-6)
    assert frechet_distance(one, 2 * (one - one.mean(axis=0)) + one.mean(axis=0)) == pytest.approx(
        np.trace(np.cov(one, rowvar=False)), rel=1e-6
    )
    assert precision_and_recall(one, one + 100) == (0, 0)
    collapsed = one[:1] + 1e-3 * random.normal(size=(400, 4))
    precision, recall = precision_and_recall(one, collapsed)
    assert precision > 0.99
    assert recall < 0.05


def test_likeness_stands_beside_what_originals_reach() -> None:
    random = np.random.default_rng(0)
    training, held_out = random.normal(size=(60, 6)), random.normal(size=(20, 6))
    like = evaluate(training, held_out, random.normal(size=(50, 6)))
    unlike = evaluate(training, held_out, random.normal(size=(50, 6)) + 5)
    assert like["frechet_train"].mean < 3 * like["frechet_train_halves"].mean
    assert unlike["frechet_train"].mean > 20 * unlike["frechet_train_halves"].mean
    assert like["precision"].mean > 0.5 > 0.01 > unlike["precision"].mean
    assert like["recall_of_train"] == unlike["recall_of_train"]


def _files(folder: Path, count: int) -> list[Sample]:
    samples = []
    for number in range(count):
        path = folder / f"PH_{number}.png"
        cv2.imwrite(str(path), phantom(number, height=32, width=32).image[:, :, ::-1])
        samples.append(Sample(path.stem, path))
    return samples


def test_copies_are_known_mirrored_too(tmp_path: Path) -> None:
    classifier = load_model(default_model(Stage.CLASSIFY), Stage.CLASSIFY)
    kept = tmp_path / "kept.npz"
    known = TrainingPictures(_files(tmp_path, 5), EmbeddingFile(classifier, 32, kept))
    other = phantom(77, height=32, width=32).image
    told = known.judge([known.pictures[2], forms(known.pictures[3])[6], 255 - other])
    assert [one["copy"] for one in told] == [True, True, False]
    assert [one["nearest_by_mse"] for one in told[:2]] == ["PH_2", "PH_3"]
    assert told[0]["nearest_by_embedding"] == "PH_2"
    with pytest.raises(UsageError, match="two are needed"):
        TrainingPictures(_files(tmp_path, 1), EmbeddingFile(classifier, 32))
    # What a file keeps is not computed again.
    again = EmbeddingFile(replace(classifier, run=lambda **_: pytest.fail("computed again")), 32, kept)
    np.testing.assert_allclose(again(_files(tmp_path, 5)), known.embeddings, atol=1e-6)
    kept.write_bytes(b"no archive")
    with pytest.raises(UsageError, match="holds no embeddings"):
        EmbeddingFile(classifier, 32, kept)


def test_train_generate_and_evaluate(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out, data = tmp_path / "run", tmp_path / "out", shutil.copytree(isic_folder, tmp_path / "isic")
    rows = (isic_folder / "labels.csv").read_text()
    (data / "labels.csv").write_text(rows.replace("nevus", "melanoma"))
    words = ("train", "generate_dcgan", "--class", "melanoma", "--data", data, "--out", run, "--smoke")
    code, told, _ = call(monkeypatch, capsys, *words)
    assert code == 0
    trained = checkpoint.load(Path(told.split()[-1]), recipe="generate_dcgan")
    assert trained.hyper["classes"] == ("melanoma",)
    assert cv2.imread(str(run / "samples.png")).shape[2] == 3
    words = ("--class", "melanoma", "--model", run / "best.pt", "--data", data)
    code, told, error = call(monkeypatch, capsys, "generate", *words, "--count", 4, "--out", out)
    assert (code, error) == (0, "")
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["synthetic"] is True
    assert manifest["compared"]["with"] == 6
    assert len(manifest["images"]) == 4
    body = (out / manifest["images"][0]["file"]).read_bytes()
    assert read_image(body, max_pixels=10**6).notes == ("synthetic",)
    with Image.open(out / manifest["images"][0]["file"]) as picture:
        assert "Synthetic" in picture.info["Description"]
    assert (out / "histogram_mse.png").exists()
    code, told, _ = call(
        monkeypatch, capsys, "evaluate", "generated", *words[:2], *words[4:], "--images", out, "--json"
    )
    assert code == 0
    assert json.loads(told)["training_pictures"] == 6
    code, _, error = call(monkeypatch, capsys, "generate", *words, "--out", out)
    assert (code, "already" in error) == (2, True)
    code, _, error = call(
        monkeypatch, capsys, "generate", "--class", "nevus", *words[2:4], "--out", tmp_path / "n"
    )
    assert (code, "generates melanoma, not nevus" in error) == (2, True)


def test_seven_classes_train_coupled_and_a_class_has_to_be_named(tmp_path: Path) -> None:
    data = tmp_path / "ham"
    (data / "images").mkdir(parents=True)
    rows = [("image_id", "lesion_id", "dx")]
    for number in range(70):
        name = f"HAM_{number:02d}"
        cv2.imwrite(str(data / "images" / f"{name}.jpg"), phantom(number % 7, height=32, width=32).image)
        rows.append((name, f"L{number}", ham10000.DIAGNOSES[number % 7]))
    with (data / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    options = RecipeOptions(out=tmp_path / "run", data=data, smoke=True)
    trained = checkpoint.load(generate_coupled.train(options), recipe="generate_coupled_ham10000")
    assert trained.hyper["classes"] == ham10000.DIAGNOSES
    with pytest.raises(UsageError, match="name it with --class, one of akiec"):
        generate_dcgan.train(options)
    with pytest.raises(UsageError, match="no weights come along that generate bcc"):
        generator_of("bcc")


def test_what_ships_generates_different_pictures() -> None:
    pictures = drawn(load_generator(generator_of("melanoma"), "melanoma"), "melanoma", 0)
    one, other = next(pictures), next(pictures)
    assert one.shape == (64, 64, 3)
    assert np.abs(one.astype(int) - other).mean() > 5


def test_arms_draw_what_they_say() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    labels = [0, 1, 1, 1, 2, 2] * 2 + [0, 0, 2]
    kinds = [generated_lesions.ORIGINAL] * 6 + [generated_lesions.PURIFIED] * 6 + [generated_lesions.GENERATED] * 3
    pictures = generated_lesions.ArmPictures([Lesion(picture, (), label) for label in labels], kinds)

    def by(arm: str, kind: int) -> list[float]:
        chances = pictures.chances(arm)
        chances = chances / chances.sum()
        return [
            round(float(chances[(pictures.kinds == kind) & (pictures.labels == label)].sum()), 3)
            for label in range(3)
        ]

    assert by("all", generated_lesions.ORIGINAL) == [0.056, 0.167, 0.111]
    assert by("all", generated_lesions.GENERATED) == [0.222, 0.0, 0.111]
    assert by("without_generated", generated_lesions.PURIFIED) == [0.083, 0.25, 0.167]
    assert by("without_purified", generated_lesions.PURIFIED) == [0, 0, 0]
    assert by("without_purified", generated_lesions.ORIGINAL) == [0.111, 0.333, 0.222]
    assert by("oversampled", generated_lesions.GENERATED) == [0, 0, 0]
    assert by("oversampled", generated_lesions.ORIGINAL) == [0.167, 0.167, 0.167]


def test_the_experiment_runs_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told.json"
    monkeypatch.setattr(sys, "argv", ["generated_lesions", "--smoke", "--json", str(told)])
    generated_lesions.main()
    figures = json.loads(told.read_text())
    assert "smoke: 9 originals, 3 generated, 6 held out" in capsys.readouterr().out
    for name in ("mean_auc", "auc_melanoma"):
        assert figures[f"all_less_oversampled:{name}"]["mean"] == pytest.approx(
            figures[f"all:{name}"]["mean"] - figures[f"oversampled:{name}"]["mean"]
        )
    monkeypatch.setattr(sys, "argv", ["generated_lesions"])
    with pytest.raises(SystemExit) as ended:
        generated_lesions.main()
    assert ended.value.code == 2
