import weakref

import numpy as np
import pytest
from PIL import Image

from tpu_deploy.calibration import InputSpec, Preprocessing, open_samples
from tpu_deploy.errors import BadInput

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
ONE = {"x": InputSpec("x", (None, 3, 4, 5), F32)}
TWO = {"ids": InputSpec("ids", (None, 7), I64), "mask": InputSpec("mask", (None, 7), F32)}
STATE = {"x": InputSpec("x", (None, 6), F32), "h": InputSpec("h", (1, 1, 8), F32)}


def batch(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 4, 5)).astype(np.float32)


def assert_samples_are(samples, expected):
    for _ in range(2):
        got = [feed["x"] for feed in samples]
        assert len(got) == len(expected)
        for array, wanted in zip(got, expected, strict=True):
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            assert np.array_equal(array, wanted[None] if wanted.ndim == 3 else wanted)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "packed.npz", "fortran.npy"])
def test_one_file_is_a_batch_of_samples(tmp_path, name):
    data = batch()
    if name == "packed.npz":
        np.savez_compressed(tmp_path / name, x=data)
    elif name.endswith("npz"):
        np.savez(tmp_path / name, x=data)
    else:
        np.save(tmp_path / name, np.asfortranarray(data) if "fortran" in name else data)
    samples = open_samples(tmp_path / name, ONE)
    assert len(samples) == 5
    assert_samples_are(samples, data)
    assert_samples_are(open_samples(str(tmp_path / name), ONE, limit=2), data[:2])


def test_a_folder_or_a_list_is_a_sample_a_file_in_the_order_of_names(tmp_path):
    data = batch(4)
    (tmp_path / "below").mkdir()
    for index, name in enumerate(["b.npy", "c.npz", "a.npy", "below/d.npy"]):
        if name.endswith("npz"):
            np.savez(tmp_path / name, x=data[index][None])
        else:
            np.save(tmp_path / name, data[index])
    (tmp_path / "README").write_text("not a sample")
    assert_samples_are(open_samples(tmp_path, ONE), [data[2], data[0], data[3], data[1]])
    (tmp_path / "list.txt").write_text("c.npz\n\nbelow/d.npy\n")
    assert_samples_are(open_samples(tmp_path / "list.txt", ONE), [data[1], data[3]])


def test_python_feeds_may_be_dicts_arrays_mappings_or_a_whole_array():
    data = batch()
    for given in ([{"x": row[None]} for row in data], list(data), data, {"x": data}, [data[:2], data[2:]]):
        samples = open_samples(given, ONE)
        joined = np.concatenate([feed["x"] for feed in samples])
        assert np.array_equal(joined, data)
        assert len(samples) == len(given if not isinstance(given, dict) else data)


def test_a_generator_is_read_once_and_never_held(tmp_path):
    alive: list[weakref.ref] = []

    def generate():
        for row in batch(20):
            sample = row.copy()
            alive.append(weakref.ref(sample))
            yield sample
            del sample

    samples = open_samples(generate(), ONE)
    assert samples.count is None
    with pytest.raises(TypeError, match="number of samples"):
        len(samples)
    most = max(sum(ref() is not None for ref in alive) for _ in samples)
    assert most <= 3
    with pytest.raises(BadInput, match="used up"):
        next(iter(samples))


def test_a_limit_does_not_read_beyond_itself():
    def generate():
        yield batch(1)
        raise AssertionError("read too far")

    assert len(list(open_samples(generate(), ONE, limit=1))) == 1


def test_several_inputs_come_from_one_file_each_with_its_dtype(tmp_path):
    ids, mask = np.arange(14, dtype=np.int32).reshape(2, 7), np.ones((2, 7), bool)
    np.savez(tmp_path / "a.npz", mask=mask, ids=ids)
    feeds = list(open_samples(tmp_path / "a.npz", TWO))
    assert [feed["ids"].tolist() for feed in feeds] == [[row.tolist()] for row in ids]
    assert feeds[0]["ids"].dtype == np.int64
    assert feeds[0]["mask"].dtype == np.float32


def test_arrays_without_a_common_batch_are_one_sample_when_they_fit_the_model(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 6), np.float32), h=np.zeros((1, 1, 8), np.float32))
    (feed,) = open_samples(tmp_path / "a.npz", STATE)
    assert feed["x"].shape == (9, 6)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


BAD_FEEDS = [
    ({"x": np.zeros((1, 3, 4, 6), np.float32)}, "'x' has shape 1x3x4x6, but the model takes ?x3x4x5"),
    ({"x": np.zeros((4, 5), np.float32)}, "'x' has shape 4x5"),
    ({"x": np.zeros((0, 3, 4, 5), np.float32)}, "shape 0x3x4x5"),
    ({"x": np.full((1, 3, 4, 5), np.nan, np.float32)}, "'x' holds NaN"),
    ({"x": np.full((1, 3, 4, 5), np.inf, np.float32)}, "'x' holds infinity"),
    ({"x": np.full((1, 3, 4, 5), 1e300)}, "'x' is float64, which does not convert safely to float32"),
    ({"x": np.full((1, 3, 4, 5), 2**24 + 1)}, "'x' is int64, which does not convert safely to float32"),
    ({"x": np.zeros((1, 3, 4, 5), complex)}, "'x' is complex128"),
    ({"y": np.zeros((1, 3, 4, 5), np.float32)}, "no input 'y'; rename it to 'x'"),
    ({"x": np.zeros((1, 3, 4, 5), np.float32), "xx": np.zeros(1)}, "no input 'xx'; rename it to 'x'"),
    ({}, "lacks the model's input 'x'"),
]


@pytest.mark.parametrize(("feed", "fault"), BAD_FEEDS)
def test_a_bad_sample_names_its_number_or_file_the_tensor_and_the_fault(tmp_path, feed, fault):
    good = {"x": batch(1)}
    with pytest.raises(BadInput) as error:
        list(open_samples([good, good, feed], ONE))
    assert str(error.value).startswith("sample 2: ")
    assert fault in str(error.value)
    (tmp_path / "folder").mkdir()
    saved(tmp_path / "folder" / "bad.npz", **feed)
    with pytest.raises(BadInput) as error:
        list(open_samples(tmp_path / "folder", ONE))
    assert "bad.npz" in str(error.value)
    assert fault in str(error.value)


def test_floats_do_not_feed_integers_and_integers_must_fit():
    with pytest.raises(BadInput, match="'ids' is float32, which does not convert safely to int64"):
        list(open_samples([{"ids": np.zeros((1, 7), np.float32), "mask": np.zeros((1, 7))}], TWO))
    small = {"x": InputSpec("x", (None,), np.dtype(np.int8))}
    assert next(iter(open_samples([np.array([5])], small)))["x"].dtype == np.int8
    with pytest.raises(BadInput, match="int8"):
        list(open_samples([np.array([300])], small))


def test_a_bare_array_does_not_feed_several_inputs():
    with pytest.raises(BadInput, match="ids, mask"):
        list(open_samples([np.zeros((1, 7))], TWO))


def test_a_fixed_batch_takes_samples_that_fill_it():
    fixed = {"x": InputSpec("x", (4, 3, 4, 5), F32)}
    assert len(list(open_samples([batch(1), batch(2), batch(4)], fixed))) == 3
    with pytest.raises(BadInput, match="shape 3x3x4x5, but the model takes 4x3x4x5"):
        list(open_samples([batch(3)], fixed))


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda p: p / "nowhere", "no such file or folder"),
        (lambda p: p, "holds no images and no .npz or .npy files"),
        (lambda p: (p / "a.npz", (p / "a.npz").write_bytes(b"PK\x03\x04 nonsense"))[0], "not a readable .npz"),
        (lambda p: (p / "a.npy", (p / "a.npy").write_bytes(b""))[0], "not a readable .npy"),
        (lambda p: (p / "a.csv", (p / "a.csv").write_text("1,2"))[0], "neither a folder"),
        (lambda p: (p / "a.txt", (p / "a.txt").write_text("\n"))[0], "names no files"),
        (lambda p: (p / "a.txt", (p / "a.txt").write_text("b.doc"))[0], "entry 1"),
        (lambda p: (p / "a.txt", (p / "a.txt").write_text("gone.npy"))[0], "gone.npy: no such file"),
        (lambda p: (p / "a.txt", (p / "a.txt").write_text("gone.png"))[0], "gone.png: no such image"),
        (lambda p: saved(p / "a.npz", x=np.zeros((0, 3, 4, 5))), "holds no samples"),
        (lambda p: saved(p / "a.npz", X=batch()), "no input 'X'; rename it to 'x'"),
        (lambda p: saved(p / "a.npz", x=np.array([None])), "Python objects"),
    ],
)
def test_an_unusable_source_is_named_with_the_reason(tmp_path, make, fault):
    path = make(tmp_path)
    with pytest.raises(BadInput) as error:
        list(open_samples(path, ONE))
    assert str(tmp_path) in str(error.value)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_batch_names_the_file_when_it_ends(tmp_path):
    np.save(tmp_path / "a.npy", batch())
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-100])
    samples = iter(open_samples(tmp_path / "a.npy", ONE))
    for _ in range(4):
        next(samples)
    with pytest.raises(BadInput, match=r"a\.npy.*truncated"):
        next(samples)


def test_arrays_that_differ_in_length_are_refused(tmp_path):
    saved(tmp_path / "a.npz", ids=np.zeros((2, 7), np.int64), mask=np.zeros((3, 8), np.float32))
    wrong = {"ids": InputSpec("ids", (1, 7), I64), "mask": InputSpec("mask", (1, 8), F32)}
    with pytest.raises(BadInput, match="differ in the number of samples"):
        open_samples(tmp_path / "a.npz", wrong)


def test_images_and_arrays_do_not_mix_and_preprocessing_is_for_images(tmp_path):
    np.save(tmp_path / "a.npy", batch(1))
    with pytest.raises(BadInput, match="preprocessing"):
        open_samples(tmp_path, ONE, Preprocessing())
    with pytest.raises(BadInput, match="preprocessing"):
        open_samples([batch(1)], ONE, Preprocessing())
    with pytest.raises(BadInput, match="preprocessing"):
        open_samples(tmp_path / "a.npy", ONE, Preprocessing())
    Image.new("RGB", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(BadInput, match=r"b\.png.*a\.npy"):
        open_samples(tmp_path, ONE)


@pytest.mark.parametrize("data", [[], {}, 7, {"x": np.zeros((0, 3, 4, 5))}])
def test_nothing_is_no_calibration_data(data):
    with pytest.raises(BadInput):
        open_samples(data, ONE)


def test_a_limit_below_one_is_refused():
    with pytest.raises(BadInput, match="at least 1, not 0"):
        open_samples([batch(1)], ONE, limit=0)
