"""The Extractor: the vectors of `test.py`, whatever the batch, in the calls of three trackers."""

import contextlib
import json
import random
import warnings

import numpy as np
import pytest
import torch
from conftest import call_script
from networks import random_crops, write_checkpoint
from PIL import Image

from appearance.cli import InputError
from appearance.data import augment
from appearance.data.layouts import Sample
from appearance.data.resize import resize
from appearance.measure.embed import features_of
from appearance.networks import checkpoints
from datasets import PersonImages
from feature_extractor import Extractor, patch, sequence_detections
from utils import seed_everything, single_process

HEIGHT, WIDTH = 64, 32


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return Extractor(write_checkpoint(tmp_path_factory.mktemp("net") / "best.pth"), use_cuda=False)


def test_vectors_are_those_of_test_py(extractor, tmp_path):
    samples = []
    for number, crop in enumerate(random_crops()):
        Image.fromarray(crop).save(tmp_path / f"{number}.png")
        samples.append(Sample(str(tmp_path / f"{number}.png"), 1))
    images = PersonImages(samples, HEIGHT, WIDTH, pids=())
    wanted = features_of(extractor.net, images, single_process("cpu")).numpy()

    found = extractor(random_crops())
    assert found.dtype == np.float32
    assert found.shape == (6, 512)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found @ found.T)[~np.eye(6, dtype=bool)].max() < 0.999  # or the comparisons here would prove nothing


def test_a_vector_does_not_depend_on_its_batch(extractor):
    crops = random_crops()
    together = extractor(crops)
    alone = np.concatenate([extractor([crop]) for crop in crops])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(extractor(crops[::-1])[::-1], together, atol=1e-6)
    assert not extractor.net.training


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("arch", ["net", "osnet_x0_25"])
def test_the_program_around_it_changes_no_vector(arch, tmp_path):
    path, crops = write_checkpoint(tmp_path / "best.pth", arch), random_crops(3)
    wanted = Extractor(path, use_cuda=False)(crops)
    for dtype in (torch.float64, torch.bfloat16):
        augment._mean_and_std.cache_clear()  # in a program of its own nothing is there before
        with default_dtype(dtype), torch.autocast("cpu", torch.bfloat16):
            extractor = Extractor(path, use_cuda=False)
            np.testing.assert_array_equal(extractor(crops), wanted)
        np.testing.assert_array_equal(extractor(crops), wanted)
    augment._mean_and_std.cache_clear()


def test_it_changes_no_random_state_of_the_program_around_it(tmp_path):
    path = write_checkpoint(tmp_path / "best.pth")

    def drawn():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    seed_everything(3)
    wanted = drawn()
    seed_everything(3)
    Extractor(path, use_cuda=False)(random_crops(2))
    assert drawn() == wanted


def test_large_lists_are_cut_into_batches(tmp_path):
    path = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    crops = random_crops(5)
    whole, cut = Extractor(path, use_cuda=False), Extractor(path, use_cuda=False, batch_size=2)
    np.testing.assert_allclose(cut(crops), whole(crops), atol=1e-6)


def test_no_crops(extractor):
    assert extractor([]).shape == (0, 512)
    assert extractor([]).dtype == np.float32
    assert extractor.predict([]) == []
    assert extractor.encode(np.zeros((50, 50, 3), np.uint8), np.empty((0, 4))).shape == (0, 512)


@pytest.mark.parametrize(
    ("crop", "words"),
    [
        (np.zeros((0, 20, 3), np.uint8), "crop 2 has no pixels"),
        (np.zeros((20, 0, 3), np.uint8), "crop 2 has no pixels"),
        (np.zeros((20, 20), np.uint8), r"crop 2 is not .* uint8 \(20, 20\)"),
        (np.zeros((20, 20, 3), np.float32), "crop 2 is not .* float32"),
        (None, "crop 2 is not .* NoneType"),
    ],
)
def test_bad_crops_are_named_by_index(extractor, crop, words):
    with pytest.raises(ValueError, match=words):
        extractor([*random_crops(2), crop])


def test_predict_takes_bgr(extractor):
    crops = random_crops()
    vectors = extractor.predict([crop[:, :, ::-1] for crop in crops])
    assert isinstance(vectors, list)
    assert vectors[0].shape == (512,)
    np.testing.assert_allclose(np.stack(vectors), extractor(crops), atol=1e-6)


def test_read_only_crops(extractor):
    crop = random_crops(1)[0]
    crop.flags.writeable = False
    assert extractor([crop]).shape == (1, 512)


@pytest.mark.parametrize(
    ("box", "wanted"),  # by hand; the network wants boxes half as wide as high, the frame is 300 wide and 200 high
    [
        ((10, 20, 40, 80), (10, 20, 50, 100)),  # fits already
        ((10, 20, 30, 80), (5, 20, 45, 100)),  # 10 too narrow: 5 more on each side
        ((100, 20, 60, 80), (110, 20, 150, 100)),  # 20 too wide
        ((10.9, 20.9, 30.9, 80.9), (5, 20, 45, 100)),  # fractions are cut off
        ((2, 20, 30, 80), (0, 20, 37, 100)),  # -3 clipped at the left
        ((280, 150, 30, 80), (275, 150, 299, 199)),  # clipped at the right and below, one pixel early as in deep_sort
    ],
)
def test_patch(box, wanted):
    assert patch(np.array(box), (200, 300, 3), 128, 64) == wanted


def test_encode_is_the_patch_of_a_bgr_frame(extractor):
    frame = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    boxes = np.array([[10, 20, 30, 80], [280, 150, 30, 80]])
    cut = [frame[20:100, 5:45, ::-1], frame[150:199, 275:299, ::-1]]
    np.testing.assert_allclose(extractor.encode(frame, boxes), extractor(cut), atol=1e-6)
    assert boxes.tolist() == [[10, 20, 30, 80], [280, 150, 30, 80]]


def test_a_box_outside_the_frame_warns_and_keeps_its_row(extractor):
    frame = np.zeros((200, 300, 3), np.uint8)
    with pytest.warns(UserWarning, match="box 1 .* outside the frame"):
        rows = extractor.encode(frame, np.array([[10, 20, 30, 80], [400, 20, 30, 80]]))
    assert rows.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


FRAME = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        (np.ones((2, 6)), r"boxes must be \(n, 4\).*shape \(2, 6\)"),
        (np.ones((2, 8)), r"shape \(2, 8\)"),
        (np.empty((0, 6)), r"shape \(0, 6\)"),
        (np.ones((1, 2, 4)), r"shape \(1, 2, 4\)"),
        ([10, 20, 30, 80], r"shape \(4,\); put one box into a list"),
        (list(range(8)), r"shape \(8,\)"),
        ([[1, 2, 3, 4], [1, 2]], r"must be an array of numbers \(n, 4\)"),
        (["abcd"], r"must be an array of numbers \(n, 4\)"),
        (None, r"shape \(\)"),
        ([[10, 20, 30, 80], [10, np.nan, 30, 80]], r"box 1 \[10\.0, nan, 30\.0, 80\.0\] has NaN or infinite values"),
        ([[10, 20, np.inf, 80]], "box 0 .* has NaN or infinite values"),
    ],
    ids=range(11),
)
def test_boxes_are_n_by_4(extractor, boxes, words):
    with pytest.raises(ValueError, match=words):
        extractor.encode(FRAME, boxes)


def test_lists_of_boxes_and_none(extractor):
    wanted = extractor.encode(FRAME, np.array([[10, 20, 30, 80]]))
    np.testing.assert_array_equal(extractor.encode(FRAME, [[10, 20, 30, 80]]), wanted)
    np.testing.assert_array_equal(extractor.encode(FRAME, torch.tensor([[10.0, 20, 30, 80]])), wanted)
    assert extractor.encode(FRAME, []).shape == (0, 512)
    with pytest.warns(UserWarning, match=r"box 0 .* has no height"):
        extractor.encode(FRAME, [[10, 20, 30, 0]])


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (FRAME.astype(np.float32), r"the frame is not .* float32 \(200, 300, 3\)"),
        (np.zeros((200, 300, 4), np.uint8), r"the frame is not .* uint8 \(200, 300, 4\)"),
        (FRAME[:, :, 0], r"the frame is not .* uint8 \(200, 300\)"),
        (None, "the frame is not .* NoneType"),
    ],
)
def test_bad_frames_are_called_frames(extractor, frame, words):
    with pytest.raises(ValueError, match=words):
        extractor.encode(frame, [[10, 20, 30, 80]])


def test_one_image_is_not_a_list_of_crops(extractor):
    for call in (extractor, extractor.predict):
        with pytest.raises(ValueError, match=r"crops must be a list, not one image of shape \(200, 300, 3\)"):
            call(FRAME)
    np.testing.assert_array_equal(extractor(np.stack([FRAME, FRAME])), extractor([FRAME, FRAME]))


def test_an_unknown_size_is_said_and_can_be_given(tmp_path):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    torch.save(checkpoints.read(weights)["net_dict"], tmp_path / "bare.pth")
    crops = random_crops(3)
    with pytest.warns(UserWarning, match=r"bare\.pth does not say its input size; using 128x64; .*--height, --width"):
        assumed = Extractor(tmp_path / "bare.pth", use_cuda=False)(crops)
    wanted = Extractor(weights, use_cuda=False)(crops)
    assert np.abs(assumed - wanted).max() > 0.01
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Extractor(tmp_path / "bare.pth", use_cuda=False, height=64, width=32)(crops)
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(
        InputError, match=r"normalize: only for ONNX and TorchScript files; .*bare\.pth is a checkpoint"
    ):
        Extractor(tmp_path / "bare.pth", normalize="outside")


def test_one_side_alone_keeps_the_shape_of_the_networks_own_input(tmp_path):
    """A crop at 64x64 in a network of 128x64 would be twice as wide as any that it has seen."""
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25", height=96, width=32)
    for given, size in (({"height": 48}, (48, 16)), ({"width": 20}, (60, 20)), ({}, (96, 32))):
        extractor = Extractor(weights, use_cuda=False, **given)
        assert (extractor.height, extractor.width) == size
    crops = random_crops(3)
    both = Extractor(weights, use_cuda=False, height=48, width=16)(crops)
    np.testing.assert_array_equal(Extractor(weights, use_cuda=False, height=48)(crops), both)
    with pytest.raises(InputError, match="--width 0: must be from 1 to 4096"):
        Extractor(weights, width=0)


def test_the_stride_of_the_last_stage_can_be_given(tmp_path):
    weights = write_checkpoint(tmp_path / "best.pth", "resnet18", last_stride=1)
    torch.save(checkpoints.read(weights)["net_dict"], tmp_path / "bare.pth")
    size = {"height": 64, "width": 32, "use_cuda": False}
    with pytest.warns(UserWarning, match="does not say the stride of its last stage; using 2"):
        assumed = Extractor(tmp_path / "bare.pth", **size)(random_crops(2))
    wanted = Extractor(weights, use_cuda=False)(random_crops(2))
    assert np.abs(assumed - wanted).max() > 1e-3
    np.testing.assert_array_equal(Extractor(tmp_path / "bare.pth", last_stride=1, **size)(random_crops(2)), wanted)


class Foreign(torch.nn.Module):
    """A network of somebody else: its vectors are not of unit length."""

    def __init__(self, inside: bool = False, maps: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.BatchNorm2d(16)
        self.inside, self.maps = inside, maps
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images):
        if self.inside:
            images = (images - self.mean) / self.std
        features = self.norm(self.conv(images)).relu()
        return features if self.maps else features.mean((2, 3))


def by_hand(net, crops, height, width):
    tensors = [resize(torch.from_numpy(crop).permute(2, 0, 1), height, width) for crop in crops]
    images = (torch.stack(tensors).float() / 255 - net.mean) / net.std
    with torch.inference_mode():
        rows = net.norm.eval()(net.conv(images)).relu().mean((2, 3))
    return (rows / rows.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_torchscript_from_elsewhere_runs_once_size_and_normalisation_are_given(tmp_path, inside):
    net = Foreign(inside)
    net.train()  # saved as it was trained: it must not take its statistics from the crops at hand
    torch.jit.save(torch.jit.script(net), str(tmp_path / "theirs.pt"))
    place = "inside" if inside else "outside"
    extractor = Extractor(tmp_path / "theirs.pt", height=48, width=24, normalize=place)
    assert (extractor.height, extractor.width, extractor.feature_dim) == (48, 24, 16)
    crops = random_crops(3)
    np.testing.assert_allclose(extractor(crops), by_hand(net, crops, 48, 24), atol=1e-5)
    for given, words in (
        ({}, r"does not contain its input size and normalisation; give height \(--height\), width"),
        ({"height": 48, "width": 24}, r"its normalisation; give normalize \(--normalize\): outside if"),
        ({"normalize": place}, r"its input size; give height \(--height\), width \(--width\)$"),
        ({"height": 48, "width": 24, "normalize": "imagenet"}, "must be outside or inside"),
        ({"height": 0, "width": 24, "normalize": place}, "--height 0: must be from 1"),
    ):
        with pytest.raises(InputError, match=words):
            Extractor(tmp_path / "theirs.pt", **given)
    torch.jit.save(torch.jit.script(Foreign(maps=True)), str(tmp_path / "maps.torchscript"))
    with pytest.raises(InputError, match=r"gives \(2, 16, 23, 11\) for 2 images, not one vector per image"):
        Extractor(tmp_path / "maps.torchscript", height=48, width=24, normalize=place)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_an_exported_file_that_gives_no_vectors_or_describes_another_is_refused(tmp_path):
    told = {"arch": "theirs", "height": 48, "width": 24, "feature_dim": 16, "normalize": "outside"}

    def written(net, description):
        text = description if isinstance(description, str) else json.dumps(description)
        torch.jit.save(torch.jit.script(net), str(tmp_path / "f.torchscript"), _extra_files={"reid": text})
        return tmp_path / "f.torchscript"

    crops = random_crops(3)
    longer = Extractor(written(Foreign().eval(), told))(crops)  # it gives rows of any length
    np.testing.assert_allclose(np.linalg.norm(longer, axis=1), 1, atol=1e-6)
    broken = Foreign().eval()
    broken.norm.running_var.fill_(-1)
    with pytest.raises(InputError, match=r"f\.torchscript: the network gives zero, NaN or infinite vectors"):
        Extractor(written(broken, told))
    with pytest.raises(InputError, match=r"does not run on images of 48x24 pixels \(output \(2, 16\) for 2 images"):
        Extractor(written(Foreign().eval(), told | {"feature_dim": 8}))
    for odd in ("{", "[1]", "{}", told | {"height": True}, told | {"height": 1 << 20}, told | {"normalize": "both"}):
        with pytest.raises(InputError, match=r"its description is not valid; write the file again with export\.py"):
            Extractor(written(Foreign().eval(), odd))


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx_from_elsewhere_tells_its_size(tmp_path, batch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    net = Foreign().eval()
    axes = {} if batch else {"dynamic_axes": {"images": {0: "n"}, "features": {0: "n"}}}
    names = {"input_names": ["images"], "output_names": ["features"]}
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(net, (torch.rand(batch or 2, 3, 48, 24),), str(path), dynamo=False, **names, **axes)
    extractor = Extractor(path, normalize="outside")
    assert (extractor.height, extractor.width, extractor.feature_dim) == (48, 24, 16)
    crops = random_crops(5)
    np.testing.assert_allclose(extractor(crops), by_hand(net, crops, 48, 24), atol=1e-5)
    with pytest.raises(InputError, match=r"theirs\.onnx: the file does not contain its normalisation; give"):
        Extractor(path)
    with pytest.raises(InputError, match=r"--height 64: .*theirs\.onnx has height 48; leave --height out"):
        Extractor(path, normalize="outside", height=64)


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_onnx_of_another_layout_or_size_is_named(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    class Last(torch.nn.Module):
        def forward(self, images):
            return images.mean((1, 2))

    torch.onnx.export(Last(), (torch.rand(2, 48, 24, 3),), str(tmp_path / "last.onnx"), dynamo=False)
    with pytest.raises(InputError, match=r"has inputs .*\[2, 48, 24, 3\].*, but needs one input \(N, 3, H, W\)"):
        Extractor(tmp_path / "last.onnx", normalize="outside")
    axes = {"dynamic_axes": {"images": {0: "n", 2: "h", 3: "w"}}}
    path = tmp_path / "any.onnx"
    torch.onnx.export(
        Foreign().eval(), (torch.rand(2, 3, 9, 9),), str(path), dynamo=False, input_names=["images"], **axes
    )
    with pytest.raises(InputError, match=r"does not contain its input size; give"):
        Extractor(path, normalize="outside")
    assert Extractor(path, normalize="outside", height=48, width=24)(random_crops(2)).shape == (2, 16)


def make_sequence(root):
    """Two frames with three detections, in MOTChallenge's layout."""
    (root / "det").mkdir(parents=True)
    (root / "img1").mkdir()
    rng = np.random.default_rng(0)
    for number in (1, 2):
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(root / "img1" / f"{number:06d}.png")
    rows = [[2, -1, 5, 5, 30, 60, 0.9], [1, -1, 50, 10, 30, 80, 0.8], [2, -1, 80, 20, 40, 80, 0.7]]
    text = "\n".join(",".join(map(str, [*row, -1, -1, -1])) for row in rows)
    (root / "det" / "det.txt").write_text(text + "\n")
    return root


def test_detections_file(tmp_path):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    sequence = make_sequence(tmp_path / "SEQ-01")
    done = call_script("feature_extractor.py", sequence, "--weights", weights, "--output", "out", cwd=tmp_path)
    assert done.code == 0, done.stderr
    rows = np.load(tmp_path / "out" / "SEQ-01.npy", allow_pickle=False)
    assert rows.shape == (3, 10 + 512)
    assert rows[:, 0].tolist() == [1, 2, 2]
    assert rows[:, 6].tolist() == [0.8, 0.9, 0.7]
    frame = np.asarray(Image.open(sequence / "img1" / "000001.png"))[:, :, ::-1]
    wanted = Extractor(weights, use_cuda=False).encode(frame, np.array([[50, 10, 30, 80]]))
    np.testing.assert_allclose(rows[:1, 10:], wanted, atol=1e-6)


def test_detections_from_weights_that_do_not_say_their_size(tmp_path):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    torch.save(checkpoints.read(weights)["net_dict"], tmp_path / "bare.pth")
    sequence = make_sequence(tmp_path / "SEQ-01")
    told = call_script("feature_extractor.py", sequence, "--weights", weights, "--output", "told", cwd=tmp_path)
    flags = ("--weights", "bare.pth", "--output", "out")
    assumed = call_script("feature_extractor.py", sequence, *flags, cwd=tmp_path)
    assert "note: bare.pth does not say its input size; using 128x64; if" in assumed.stdout
    given = call_script("feature_extractor.py", sequence, *flags, "--height", 64, "--width", 32, cwd=tmp_path)
    assert (told.code, assumed.code, given.code) == (0, 0, 0), told.stderr + assumed.stderr + given.stderr
    assert "note" not in told.stdout + given.stdout
    assert assumed.stderr == ""
    assert (tmp_path / "out" / "SEQ-01.npy").read_bytes() == (tmp_path / "told" / "SEQ-01.npy").read_bytes()


def test_detections_of_a_missing_frame(extractor, tmp_path):
    sequence = make_sequence(tmp_path / "SEQ-01")
    (sequence / "img1" / "000002.png").unlink()
    with pytest.raises(InputError, match="no image of frame 2"):
        sequence_detections(extractor, sequence)
    with pytest.raises(InputError, match="has no folder img1/"):
        sequence_detections(extractor, tmp_path / "SEQ-01" / "det")
    (sequence / "det" / "det.txt").write_text("1,2,3\n")
    with pytest.raises(InputError, match="has 3 columns"):
        sequence_detections(extractor, sequence)


def test_detections_as_others_write_them(extractor, tmp_path):
    """Seven columns, spaces, names with words, annotations alone, a file elsewhere: the same rows."""
    sequence = make_sequence(tmp_path / "SEQ-01")
    wanted = sequence_detections(extractor, sequence)
    for image in sorted((sequence / "img1").iterdir()):
        image.rename(image.with_name(f"frame_{image.name}"))
    short = "1 -1 50 10 30 80 0.8\n2 -1 5 5 30 60 0.9\n2 -1 80 20 40 80 0.7\n"
    (tmp_path / "boxes.txt").write_text(short)
    np.testing.assert_array_equal(sequence_detections(extractor, sequence, tmp_path / "boxes.txt"), wanted)
    (sequence / "det" / "det.txt").write_text(short)
    np.testing.assert_array_equal(sequence_detections(extractor, sequence), wanted)
    (sequence / "det" / "det.txt").unlink()
    (sequence / "gt").mkdir()
    (sequence / "gt" / "gt.txt").write_text("1,7,50,10,30,80,1,1,1\n2,7,5,5,30,60,1,1,1\n2,8,80,20,40,80,1,1,1\n")
    found = sequence_detections(extractor, sequence)
    np.testing.assert_array_equal(found[:, 10:], wanted[:, 10:])
    assert found[:, 1].tolist() == [7, 7, 8]


def test_detections_that_show_nothing_are_counted(extractor, tmp_path, capsys):
    sequence = make_sequence(tmp_path / "SEQ-01")
    path = sequence / "det" / "det.txt"
    path.write_text("1,-1,50,10,0,80,1,2\n1,-1,500,10,30,80,1,2\n1,-1,50,10,30,80,1,2\n1,-1,50,10,30,80,1,3\n")
    found = sequence_detections(extractor, sequence, classes=["2"])
    assert found[:, 2:6].tolist() == [[50, 10, 30, 80]]
    printed = capsys.readouterr().out
    assert f"{path}: 1 of 3 boxes have no width or height" in printed
    assert f"{path}: 1 of 3 boxes have no part inside the frame" in printed


def test_vectors_in_bfloat16_are_nearly_the_same(tmp_path):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    crops = list(np.random.default_rng(0).integers(0, 256, (4, 64, 32, 3), dtype=np.uint8))
    exact, rough = (Extractor(weights, use_cuda=False, precision=one)(crops) for one in ("fp32", "bf16"))
    assert rough.dtype == np.float32
    assert 0 < np.abs(exact - rough).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1, atol=1e-5)
