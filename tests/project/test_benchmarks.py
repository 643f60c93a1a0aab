"""The benchmark of attacks measures what it says: work, rounds, ratios, and our own side of both tables."""

import json

import pytest
import torch
from torch import nn

from benchmarks import attack_clock as clock
from benchmarks import attack_networks as networks
from benchmarks import attack_peers as peers
from benchmarks import attack_speed, sentinel_cost, smoothing_cost, train_speed
from components.attacks.parts.victim import Victim
from components.data.splits import LabelledImages
from components.evaluation.cascades import specs
from components.evaluation.one_attack import TestSet
from components.foundation.params import Ratio


@pytest.fixture
def hurried(monkeypatch):
    """One short epoch of training, one small convolution, one small product, and half the cascade."""
    harden, networks_made = networks.harden, (networks._robust_on_digits, networks._robust_small_cnn)

    def briefly(model, images, threat, step_size, training):
        harden(model, images.take(torch.arange(256)), threat, step_size, networks.Training(2, 64, 0.1, 1))

    monkeypatch.setattr(networks, "harden", briefly)
    monkeypatch.setattr(networks, "HELD_OUT", 20)
    monkeypatch.setattr(clock, "BLOCKS", ((1, 8, 8, 8, 1),))
    monkeypatch.setattr(clock, "SIDE", 64)
    monkeypatch.setattr(attack_speed, "specs", lambda name, num_classes, norm: specs("quick", num_classes, norm))
    for made in networks_made:
        made.cache_clear()
    yield
    for made in networks_made:
        made.cache_clear()


def test_our_side_of_both_tables(hurried, tmp_path, capsys):
    out = tmp_path / "speed.json"
    options = ["--entrants", "temper-float32", "--rounds", "1", "--images", "12", "--out", str(out)]
    attack_speed.main(["--only", "pgd/digits", "cascade/digits", *options])
    result = json.loads(out.read_text())
    assert result["machine"]["threads"] == 1 and result["machine"]["versions"]["torch"]

    pgd = result["parts"]["pgd/digits"]
    assert set(pgd["entrants"]) == {"temper-bfloat16", "temper-float32"} and set(pgd["ratios"]) == {"temper-float32"}
    for row in pgd["entrants"].values():
        assert row["passes_per_image"] == {"forward": 10, "backward": 10}
        assert 0.19 < row["epsilon"] <= 0.2 + 1e-6 and len(row["cpu_seconds"]) == 1
        work = pgd["gflop_per_forward_pass"] * 20 * 12
        assert row["gflop_per_s"]["median"] == pytest.approx(work / row["cpu_seconds"][0])

    cascade = result["parts"]["cascade/digits"]
    steps = cascade["our_steps"]["temper-bfloat16"]
    standing = [step["standing"] for step in steps.values()]
    assert list(steps) == ["clean", "cascade/apgd_ce", "cascade/apgd_t"] and standing == sorted(standing, reverse=True)
    assert cascade["entrants"]["temper-bfloat16"]["robust_accuracy"] == [standing[-1] / 12]

    printed = capsys.readouterr().out
    assert printed.count("temper-bfloat16 ") >= 2 and "limit, bfloat16 convolutions" in printed


def test_rounds_begin_in_turn_and_ratios_stay_within_a_round():
    ran = []
    laps = clock.race({name: lambda seed, name=name: ran.append((name, seed)) for name in "abc"}, 3, once=("c",))
    assert ran == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert [len(laps[name]) for name in "abc"] == [3, 3, 1]
    timed = {"own": [clock.Lap(1.0, 0, None), clock.Lap(2.0, 0, None)], "other": [clock.Lap(3.0, 0, None)] * 2}
    assert clock.ratios(timed, "own") == {"other": {"min": 1.5, "median": 2.25, "max": 3.0}}


def test_work_of_a_resnet18_is_its_blocks_and_the_rest():
    train = LabelledImages(torch.randint(256, (4, 3, 32, 32)).to(torch.uint8), torch.zeros(4, dtype=torch.int64))
    model = networks._build(networks.ResNet18, train).eval()
    blocks = sum(count * i * o * 9 * (side // stride) ** 2 for count, i, o, side, stride in clock.BLOCKS)
    stem, head = 3 * 64 * 9 * 32**2, 512 * 10
    projections = 64 * 128 * 16**2 + 128 * 256 * 8**2 + 256 * 512 * 4**2
    assert networks.multiply_adds(model, (3, 32, 32)) == stem + blocks + projections + head == 555_422_720


def test_passes_are_counted_however_the_model_is_called(tiny, images):
    """ART calls the layers of a sequence one after another."""
    model = nn.Sequential(tiny.features, nn.Flatten(), tiny.head).eval()
    counter = attack_speed.pass_counter([Victim(model), Victim(model, nn.Sequential(model))])
    leaf = images.clone().requires_grad_()
    model(leaf).sum().backward()
    features = leaf
    for layer in model.children():
        features = layer(features)
    assert counter.take() == {"forward": 24, "backward": 12}


def test_a_peer_that_is_absent_is_reported(tiny, images, labels, linf, capsys):
    def absent(case: peers.Case) -> peers.Run:
        raise ImportError("no module")

    pixels = (images * 255).to(torch.uint8)
    setting = networks.Setting(tiny, TestSet(pixels, labels, 12), TestSet(pixels, labels, 12), linf, Ratio(1), "")
    drivers = {"here": lambda case: lambda seed: case.images, "gone": absent, "unwanted": absent}
    ready, missing = attack_speed.drive(drivers, ["here", "gone"], setting, labels)
    assert list(ready) == ["here"] and missing == ["gone"] and "gone: not installed" in capsys.readouterr().out


def test_synthetic_images_differ_by_class_and_are_the_same_again():
    images, again = networks.synthetic(200, 1), networks.synthetic(200, 1)
    assert torch.equal(images.images, again.images) and images.images.shape == (200, 3, 32, 32)
    means = torch.stack([images.images[images.labels == label].float().mean(0) for label in range(10)])
    spread = torch.stack([(images.images[images.labels == label].float() - means[label]).std() for label in range(10)])
    assert torch.pdist(means.flatten(1)).min() / (3 * 32 * 32) ** 0.5 > spread.max() / 2


def test_the_price_of_a_look_is_in_trained_images(tmp_path, monkeypatch):
    monkeypatch.setitem(sentinel_cost.NETWORKS, "small_cnn", (sentinel_cost.NETWORKS["small_cnn"][0], (1, 8, 8)))
    out = tmp_path / "cost.json"
    sentinel_cost.main(["--networks", "small_cnn", "--images", "20", "--rounds", "1", "--out", str(out)])
    found = json.loads(out.read_text())["networks"]["small_cnn"]
    # PGD-k looks pass k + 3 times forward and k + 2 times back; FGSM-RS trains with 2 of each, PGD-10 with 11.
    passes = {(method, look): found[method][look]["in_passes"] for method in found for look in found[method]}
    assert passes == {
        ("fgsm_rs", "look_pgd_5"): 15 / 4,
        ("fgsm_rs", "look_pgd_10"): 25 / 4,
        ("pgd_at_10", "look_pgd_5"): 15 / 22,
        ("pgd_at_10", "look_pgd_10"): 25 / 22,
    }
    one = found["fgsm_rs"]["look_pgd_5"]
    assert one["affordable_per_epoch"] == int(0.03 * 54_000 / one["trained_images_per_image"]["median"])


def test_what_smoothing_costs(tmp_path, capsys):
    """Passes of each form and source; without a stride every gate is open. A batch's pull takes no pass of its own."""
    out = tmp_path / "cost.json"
    smoothing_cost.main(["--images", "40", "--rounds", "1", "--out", str(out)])
    found = json.loads(out.read_text())["entrants"]
    assert {name: (one["forward"], one["backward"]) for name, one in found.items() if name != "batch-pass"} == {
        "fgsm_rs": (2, 2),
        "batch-start": (2, 2),
        "batch-start-open": (2, 2),
        "batch-study": (2, 2),
        "example-start": (2, 3),
        "example-study": (2, 2),
        "example-pass": (3, 3),
    }
    assert found["batch-pass"]["forward"] == 3 and found["batch-start-open"]["open"] == 1
    assert all(one["cpu_seconds"][0] > 0 for one in found.values()) and found["fgsm_rs"]["overhead"]["max"] == 0
    assert "batch-start-open" in capsys.readouterr().out


def test_training_is_timed_against_the_published_loop(tmp_path, capsys):
    """Both ways pass as often through the network; the ratio is of seconds in the same round."""
    out = tmp_path / "speed.json"
    train_speed.main(["--only", "fgsm_rs/small_cnn", "--rounds", "1", "--images", "8", "--out", str(out)])
    found = json.loads(out.read_text())["parts"]["fgsm_rs/small_cnn"]
    rows = found["entrants"]
    assert {"temper", "plain"} <= set(rows) and all(row["images_per_cpu_second"] > 0 for row in rows.values())
    # The published loop computes the weights' gradients in the attack too, for nothing.
    assert rows["temper"]["passes_per_image"] == {"forward": 2, "backward": 2, "weights": 1}
    assert rows["plain"]["passes_per_image"] == {"forward": 2, "backward": 2, "weights": 2}
    ratio = rows["plain"]["cpu_seconds"][0] / rows["temper"]["cpu_seconds"][0]
    assert found["ratios"]["plain"]["median"] == pytest.approx(ratio)
    assert "temper" in capsys.readouterr().out
