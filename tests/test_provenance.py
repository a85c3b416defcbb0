"""A checkpoint knows its training data: `test.py` says what it was, and meets its people again."""

import shutil

import torch
from conftest import COLOURS, call_script, make_class_folders, make_market, paint

from appearance.data import layouts, provenance
from appearance.measure import features_file
from appearance.networks import checkpoints

TINY = ["--height", 32, "--width", 16, "--workers", 1, "--device", "cpu"]


def met(trained, names, tested) -> list[str]:
    data = layouts.find(tested)
    pids = provenance.people_met(provenance.describe(layouts.find(trained)), names, data)
    return sorted(data.names[pid] for pid in pids)


def test_people_are_met_by_content_whatever_they_are_called(tmp_path):
    trained = make_class_folders(tmp_path / "people", identities=3)
    tested = make_market(tmp_path / "market")
    assert met(trained, ["person1", "person2", "person3"], tested) == []
    shutil.copy(trained / "person2" / "c1_000.jpg", tested / "query" / "0006_c1s1_000777_00.jpg")
    shutil.copy(trained / "person3" / "c1_000.jpg", tested / "bounding_box_test" / "0000_c1s1_000777_00.jpg")  # nobody
    assert met(trained, [], tested) == ["0006"]


def test_people_are_met_by_name_where_names_mean_somebody(tmp_path):
    trained = make_class_folders(tmp_path / "people", identities=3)
    for split, seed in (("query", 1), ("gallery", 2)):
        for name in ("person1", "77", "berta"):
            paint(tmp_path / "other" / split / name / f"c{seed}_1.png", COLOURS[0], seed=seed * 100 + len(name))
    assert met(trained, ["person1", "person2", "77"], tmp_path / "other") == ["person1"]
    shutil.copytree(tmp_path / "other", trained, dirs_exist_ok=True)
    (trained / "train").mkdir()
    for folder in ("person1", "person2", "person3"):
        (trained / folder).rename(trained / "train" / folder)
    assert met(trained, ["person1", "person2", "77"], trained) == ["77", "person1"]


def test_a_network_remembers_what_its_first_weights_were_trained_on(tmp_path):
    first = provenance.describe(layouts.find(make_class_folders(tmp_path / "a", identities=3)))
    second = provenance.describe(layouts.find(make_class_folders(tmp_path / "b", identities=2, images=3)), first)
    assert [(one["identities"], one["images"]) for one in second["sets"]] == [(3, 12), (2, 6)]
    assert set(first["fingerprints"].tolist()) <= set(second["fingerprints"].tolist())
    again = provenance.describe(layouts.find(tmp_path / "b"), second)
    assert again["sets"] == second["sets"]
    assert torch.equal(again["fingerprints"], second["fingerprints"])
    assert provenance.sentence(second) == (
        f"trained on {tmp_path}/b (2 identities, 6 images), and before on {tmp_path}/a (3 identities, 12 images)"
    )


def test_files_that_say_nothing_or_nonsense_are_no_trouble():
    good = {"sets": [{"data_dir": "a", "layout": "b", "identities": 1, "images": 2}], "fingerprints": torch.arange(3)}
    assert provenance.of_checkpoint({"trained_on": good}) is good
    for broken in (None, 3, {}, good | {"sets": []}, good | {"sets": [3]}, good | {"fingerprints": torch.ones(3)}):
        assert provenance.of_checkpoint({"trained_on": broken}) is None
    assert provenance.sentence(None) == "does not record its training data"
    assert provenance.people_met(None, ["1"], layouts.ReIDData("x", "y")) == set()


def test_from_training_through_testing_to_the_warning(tmp_path):
    data = make_market(tmp_path / "market", train_ids=3, test_ids=3, images=6)
    flags = ["--epochs", 1, "--model", "osnet_x0_25", "--batch_size", 8, "--sampler", "shuffle", *TINY]
    trained = call_script("train.py", "--data-dir", "market", *flags, cwd=tmp_path)
    assert trained.code == 0, trained.stderr
    for name in ("best", "last"):
        kept = checkpoints.load(tmp_path / "checkpoint" / f"{name}.pth").extra["trained_on"]
        assert kept["sets"] == [
            {"data_dir": str(data), "layout": kept["sets"][0]["layout"], "identities": 3, "images": 18}
        ]
        assert len(kept["fingerprints"]) == 18

    tested = call_script("test.py", "--data-dir", "market", "--device", "cpu", "--workers", 1, cwd=tmp_path)
    assert tested.code == 0, tested.stderr
    assert f"trained on {data} (3 identities, 18 images)" in tested.stdout
    assert features_file.load(tmp_path / "features.pth")["meta"]["identities_trained_on"] == 0
    measured = call_script("evaluate.py", "--calibrate", cwd=tmp_path)
    assert "the network was trained on" not in measured.stdout

    shutil.copy(next((data / "bounding_box_train").glob("0001*")), data / "query" / "0005_c1s1_000999_00.jpg")
    for name in ("features.npz", "features"):  # whatever kind of file
        tested = call_script(
            *("test.py", "--data-dir", "market", "--device", "cpu", "--workers", 1, "--output", name), cwd=tmp_path
        )
        assert tested.code == 0, tested.stderr
        measured = call_script("evaluate.py", name, "--calibrate", cwd=tmp_path)
        assert "warning: the network was trained on 1 of these 3 people" in measured.stdout


def test_tracks_of_a_sequence_that_a_network_was_trained_on(tmp_path):
    rows = ["identity,sequence,track,split", "1,WALK,4,train", "1,WALK,7,train", "2,WALK,9,query", "3,YARD,4,train"]
    (tmp_path / "identities.csv").write_text("\n".join(rows))
    trained_on = {"sets": [{"data_dir": str(tmp_path)}, {"data_dir": str(tmp_path / "gone")}]}
    assert [provenance.tracks_met(trained_on, name) for name in ("WALK", "YARD", "ELSEWHERE")] == [2, 1, 0]
    assert provenance.tracks_met(None, "WALK") == 0
