"""Every format read back, and every kind of bad input refused in one line that says where the fault lies."""

import datetime
import decimal
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from torchebm.datasets import DataError, density, load

TABLE = np.array([[1.0, 2.5, -3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 1e6]])


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Image.Image):
        content.save(path)
    elif isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


def refusal(source):
    """The message of the error that loading raises, checked to be a single line."""
    with pytest.raises(DataError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    return message


def grey(value, size=(6, 4)):
    return Image.new("L", size, value)


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "columns"),
    [
        ("a.npy", TABLE, ("x1", "x2", "x3")),
        ("a.npz", {"x": TABLE}, ("x1", "x2", "x3")),
        ("a.npz", {"whatever": TABLE}, ("x1", "x2", "x3")),
        ("a.csv", "1,2.5,-3\n4,5,6\n7,8,1e6\n", ("x1", "x2", "x3")),
        ("a.csv", "\ufeffa,b b,c\r\n1, 2.5,-3\r\n\r\n4,5,6\r\n7,8,1e6", ("a", "b b", "c")),
        ("A.CSV", '"a";"b, of c";"c"\n1;2.5;-3\n4;5;6\n7;8;1e6\n', ("a", "b, of c", "c")),
        ("a.csv", "# a,b,c\n1,2.5,-3\n4,5,6\n7,8,1e6\n", ("a", "b", "c")),
        ("a.csv", "a\tb\tc\n1\t2.5\t-3\n4\t5\t6\n7\t8\t1e6\n", ("a", "b", "c")),
        ("a.csv", '"a\nb",b,b\n1,2.5,-3\n4,5,6\n7,8,1e6\n', ("a b", "b", "b")),
        ("a.parquet", pd.DataFrame(TABLE, columns=["a", "b", "c"]), ("a", "b", "c")),
        ("a.parquet", pd.DataFrame(TABLE, columns=["a", "b", "c"], dtype="Float64"), ("a", "b", "c")),
        ("a.parquet", pd.DataFrame([[decimal.Decimal(str(v)) for v in row] for row in TABLE], columns=list("abc")),
         ("a", "b", "c")),
    ],
)  # fmt: skip
def test_tables(tmp_path, file, content, columns):
    data = load(write(tmp_path / file, content))
    assert torch.equal(data.x, torch.tensor(TABLE, dtype=torch.float32))
    assert (data.kind, data.columns, data.labels, data.bounds, data.name) == ("table", columns, None, None, file)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.csv", "a,b\n1,True\n2,false\n", [[1, 1], [2, 0]]),
        ("a.csv", "a,b\nTrue,False\nFalse,True\n", [[1, 0], [0, 1]]),
        ("a.csv", "a\n5\n5\n", [[5], [5]]),
        ("a.csv", "a,b\n123456789012345678901234567890,1\n2,2\n", [[123456789012345678901234567890, 1], [2, 2]]),
        ("a.parquet", pd.DataFrame({"a": [True, False], "b": [2**62, 1]}), [[1, 2**62], [0, 1]]),
        ("a.npy", np.array([[2**63, 1], [0, 1]], dtype=np.uint64), [[2**63, 1], [0, 1]]),
        ("a.npy", np.array([[True], [False]]), [[1], [0]]),
        ("a.npy", np.array([3, 4], dtype=np.int8), [[3], [4]]),
        ("a.npy", np.array([[1.5], [4]], dtype=">f2"), [[1.5], [4]]),
    ],
)
def test_integers_booleans_and_constant_columns(tmp_path, file, content, expected):
    assert torch.equal(load(write(tmp_path / file, content)).x, torch.tensor(expected, dtype=torch.float64).float())


@pytest.mark.parametrize(
    ("array", "shape", "bounds"),
    [
        (np.zeros((3, 28, 28), np.uint8), (3, 1, 28, 28), (0, 255)),
        (np.zeros((3, 3, 5, 4), np.uint16), (3, 3, 5, 4), (0, 65535)),
        (np.zeros((3, 5, 4, 3), bool), (3, 3, 5, 4), (0, 1)),
        (np.linspace(0, 0.9, 60).reshape(3, 5, 4), (3, 1, 5, 4), (0, 1)),
        (np.linspace(-0.9, 0.9, 60).reshape(3, 5, 4), (3, 1, 5, 4), (-1, 1)),
        (np.linspace(0, 16, 60).reshape(3, 5, 4), (3, 1, 5, 4), (0, 16)),
        (np.full((3, 5, 4), 7.0), (3, 1, 5, 4), None),
    ],
)
def test_arrays_of_images(tmp_path, array, shape, bounds):
    data = load(write(tmp_path / "a.npy", array))
    assert (data.kind, tuple(data.x.shape), data.bounds, data.columns) == ("image", shape, bounds, None)
    assert data.x.dtype == torch.float32


def test_channels_last_is_transposed_not_reshaped(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    data = load(write(tmp_path / "a.npy", array))
    assert torch.equal(data.x[1, 2], torch.from_numpy(array[1, :, :, 2]).float())


@pytest.mark.parametrize(
    ("y", "labels", "classes"),
    [
        (np.array([7, 0, 7], np.uint8), [7, 0, 7], None),
        (np.array([[1.0], [0.0], [2.0]]), [1, 0, 2], None),
        (np.array(["dog", "cat", "dog"]), [1, 0, 1], ("cat", "dog")),
    ],
)
def test_labels(tmp_path, y, labels, classes):
    images = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    arrays = {"x_test": images[:1], "y_test": y[:1], "x_train": images, "y_train": y}
    data = load(write(tmp_path / "mnist.npz", arrays))
    assert (data.x.shape, data.bounds, data.name) == ((3, 1, 28, 28), (0, 255), "mnist.npz")
    assert (data.labels.tolist(), data.labels.dtype, data.classes) == (labels, torch.int64, classes)


@pytest.mark.parametrize("extension", ["png", "bmp", "gif", "webp", "jpg", "JPEG"])
def test_folder_of_images(tmp_path, extension):
    for i, value in enumerate((10, 200, 90)):
        write(tmp_path / "faces" / f"{i}.{extension}", grey(value).convert("RGB"))
    write(tmp_path / "faces" / ".hidden.png", b"not an image")
    write(tmp_path / "faces" / "notes.txt", "not an image")
    data = load(tmp_path / "faces")
    assert (tuple(data.x.shape), data.bounds, data.name, data.labels) == ((3, 3, 4, 6), (0, 255), "faces", None)
    torch.testing.assert_close(data.x[:, 0, 0, 0], torch.tensor([10.0, 200.0, 90.0]), rtol=0, atol=3)


def test_subfolders_are_classes(tmp_path):
    for name in ("dog/b", "cat/deep/a", "dog/a"):
        write(tmp_path / f"{name}.png", grey(len(name)))
    data = load(str(tmp_path))
    assert (data.labels.tolist(), data.classes, data.event_shape) == ([0, 1, 1], ("cat", "dog"), (1, 4, 6))


def test_transparency_and_palettes(tmp_path):
    write(tmp_path / "a.png", grey(3).convert("RGBA"))
    write(tmp_path / "b.png", grey(3).convert("RGB").quantize())
    assert (load(tmp_path).x == 3).all()


def test_built_in_names():
    data = load("checkerboard", torch.Generator().manual_seed(0))
    again = density("checkerboard").sample(10_000, torch.Generator().manual_seed(0))
    assert torch.equal(data.x, again)
    assert (data.kind, data.name, data.columns) == ("table", "checkerboard", ("x1", "x2"))
    assert load("gaussian_1d").columns == ("x1",)
    assert load("digits").kind == "image"


def test_a_path_beside_a_built_in_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        write(tmp_path / "digits" / f"{i}.png", grey(i))
    assert len(load("digits")) == 1797
    assert len(load("./digits")) == 2


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty; expected a table of numbers."),
        ("a.csv", "a,b\n", "a.csv has no row of data; at least 2 are needed to learn from."),
        ("a.csv", "a,b\n1,2\n", "a.csv has only one row of data; at least 2 are needed to learn from."),
        ("a.csv", "a,b\n1,2\n3,\n",
         "NaN in column 2 ('b'), row 2 of a.csv (the field is empty): drop or fill missing values first."),
        ("a.csv", "1,2\n\n3,4\n5,N/A\n",
         "NaN in column 2 ('x2'), row 3 of a.csv (the field is 'N/A'): drop or fill missing values first."),
        ("a.csv", "a,b\n1,2\n3,-inf\n", "an infinite value in column 2 ('b'), row 2 of a.csv: drop or cap it first."),
        ("a.csv", "a,b\n1,2\n1e300,4\n",
         "a value too large for float32 in column 1 ('a'), row 2 of a.csv: rescale the column first."),
        ("a.csv", "a,date\n1,2\n3,2020-01-01\n",
         "text '2020-01-01' in column 2 ('date'), row 2 of a.csv: every column must be numeric; drop the column or "
         "encode it as numbers."),
        ("a.csv", "a,b\n1,2\n3,1_000\n",
         "text '1_000' in column 2 ('b'), row 2 of a.csv: every column must be numeric; drop the column or encode it "
         "as numbers."),
        ("a.csv", "a,b\n1,2\n3\n5,6\n",
         "row 2 of a.csv has 1 field, the first line 2: every row needs the same number."),
        ("a.csv", "a,b\n1,2\n3,4,5\n",
         "row 2 of a.csv has 3 fields, the first line 2: every row needs the same number."),
        ("a.csv", "a,b\n1,2,3\n4,5,6\n",
         "row 1 of a.csv has 3 fields, the first line 2: every row needs the same number."),
        ("a.csv", ",b\n0,1\n1,2\n",
         "column 1 of a.csv has no name, like a row index of pandas: write the file with index=False, or name the "
         "column."),
        ("a.csv", b"a,b\n1,\xff\xfe\n", "a.csv is not a .csv file in UTF-8: "),
        ("a.npy", np.array([[1.0, np.nan], [2.0, 3.0]]),
         "NaN in column 2 ('x2'), row 1 of a.npy: drop or fill missing values first."),
        ("a.npy", np.array([[1.0, 2.0], [np.inf, 3.0]]),
         "an infinite value in column 1 ('x1'), row 2 of a.npy: drop or cap it first."),
        ("a.npy", np.array([["1", "b"]]), "a.npy holds text; expected an array of real numbers."),
        ("a.npy", np.array([[1j]]), "a.npy holds complex numbers; expected an array of real numbers."),
        ("a.npy", np.array(["2020-01-01"], dtype="M8[D]"), "a.npy holds dates; expected an array of real numbers."),
        ("a.npy", np.zeros(3, dtype=[("a", float)]), "a.npy holds records; expected an array of real numbers."),
        ("a.npy", np.array([[1, "b"]], dtype=object),
         "a.npy holds Python objects, not numbers; save an array of a numeric dtype."),
        ("a.npy", b"", "a.npy is damaged or not what its extension says: "),
        ("a.npy", b"hello, world", "a.npy is not a NumPy file."),
        ("a.npy", b"\x93NUMPY\x01", "a.npy is damaged or not what its extension says: "),
        ("a.npy", np.float64(3), "a.npy has shape []; expected [n, d], a table, or [n, h, w] or [n, c, h, w], images."),
        ("a.npy", np.zeros((2, 1, 1, 1, 1)), "a.npy has shape [2, 1, 1, 1, 1]; expected [n, d]"),
        ("a.npy", np.zeros((0, 3)), "a.npy has no row of data; at least 2 are needed to learn from."),
        ("a.npy", np.zeros((1, 3)), "a.npy has only one row of data; at least 2 are needed to learn from."),
        ("a.npy", np.zeros((5, 0)), "a.npy has no columns; expected a table of numbers."),
        ("a.npy", np.zeros((1, 8, 8)), "a.npy has only one image; at least 2 are needed to learn from."),
        ("a.npy", np.zeros((2, 0, 8)), "a.npy holds images without pixels: its shape is [2, 0, 8]."),
        ("a.npy", np.where(np.arange(18).reshape(2, 3, 3) == 13, np.nan, 0),
         "NaN in image 2 of a.npy, at channel 1, row 2, column 2."),
        ("a.npy", np.full((2, 3, 3), 1e300), "an infinite value in image 1 of a.npy, at channel 1, row 1, column 1."),
        ("a.npz", {}, "a.npz holds no arrays; expected one named x, x_train or data, or a single one."),
        ("a.npz", {"u": TABLE, "v": TABLE},
         "a.npz has the arrays u, v; expected one named x, x_train or data, or a single one."),
        ("a.npz", {"x": TABLE, "y": np.zeros(2)}, "y in a.npz has shape [2]; expected [3], one label per row."),
        ("a.npz", {"x": TABLE, "y": np.array([0.5, 1, 2])},
         "y in a.npz holds float64 values that are no classes; expected integers or text."),
        ("a.npz", {"x": np.array([[None]])}, "a.npz holds Python objects, not numbers"),
        ("a.npz", b"hello, world", "a.npz is not a NumPy file."),
        ("a.npz", b"PK\x03\x04 cut short", "a.npz is damaged or not what its extension says: "),
        ("a.parquet", b"hello, world", "a.parquet is not a readable .parquet file: "),
        ("a.parquet", pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, None]}),
         "NaN in column 2 ('b'), row 2 of a.parquet: drop or fill missing values first."),
        ("a.parquet", pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
         "NaN in column 1 ('a'), row 2 of a.parquet: drop or fill missing values first."),
        ("a.parquet", pd.DataFrame({"a": [1, 2], "grape": [None, "merlot"]}),
         "text 'merlot' in column 2 ('grape'), row 2 of a.parquet: every column must be numeric; drop the column or "
         "encode it as numbers."),
        ("a.parquet", pd.DataFrame({"a": [1, 2], "grape": pd.Categorical(["pinot", "merlot"])}),
         "text 'pinot' in column 2 ('grape'), row 1 of a.parquet"),
        ("a.parquet", pd.DataFrame({"when": pd.to_datetime(["2020-01-01", "2020-01-02"])}),
         "column 1 ('when') of a.parquet holds dates, not numbers: drop the column or turn it into a number of days."),
        ("a.parquet", pd.DataFrame({"when": [datetime.date(2020, 1, 1)] * 2}),
         "column 1 ('when') of a.parquet holds values of type date: every column must be numeric"),
        ("a.parquet", pd.DataFrame({"took": pd.to_timedelta([1, 2], unit="s")}),
         "column 1 ('took') of a.parquet holds durations, not numbers"),
        ("a.parquet", pd.DataFrame({"a": [[1], [2]]}), "column 1 ('a') of a.parquet holds values of type "),
        ("a.parquet", pd.DataFrame({"a": []}, dtype=float), "a.parquet has no row of data"),
        ("a.parquet", pd.DataFrame(index=[0, 1]), "a.parquet has no columns; expected a table of numbers."),
        ("a.txt", "1 2\n", "a.txt has the unknown extension '.txt'; expected .npy, .npz, .csv, .parquet or a folder of "
         "images."),
        ("table", "1 2\n", "table has no extension; expected .npy"),
        ("a.png", grey(0), "a.png is a single image: give the folder that holds the images."),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, file, content, message):
    said = refusal(write(tmp_path / file, content))
    assert said == message if message.endswith(".") else said.startswith(message)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "no images in the folder pets; expected files ending in .png, .jpg, .jpeg, .bmp, .gif, .webp."),
        ({"a.png": grey(0)}, "the folder pets has only one image; at least 2 are needed to learn from."),
        ({"a.png": grey(0), "b.png": grey(0, (6, 5))},
         "b.png is 6 x 5 grey, the first image a.png is 6 x 4 grey: all must have one size, and be all grey or all "
         "colour."),
        ({"a.png": grey(0), "c/b.png": grey(0).convert("RGB")},
         "c/b.png is 6 x 4 colour, the first image a.png is 6 x 4 grey: all must have one size, and be all grey or all "
         "colour."),
        ({"a.png": grey(0), "b.png": b"hello"}, "b.png is not a readable image: "),
        ({"a.png": grey(0), "b.png": b""}, "b.png is not a readable image: "),
        ({"a.png": grey(0), "b.png": Image.new("I;16", (6, 4))},
         "b.png has pixels of mode 'I;16'; expected 8-bit grey or colour."),
        ({"a.png": grey(0), "cat/b.png": grey(0)},
         "the folder pets holds images both beside its subfolders (a.png) and in them: the class of the former is "
         "unclear; move them into a subfolder."),
    ],
)  # fmt: skip
def test_bad_folders(tmp_path, images, message):
    (tmp_path / "pets").mkdir()
    for name, content in images.items():
        write(tmp_path / "pets" / name, content)
    said = refusal(tmp_path / "pets")
    assert said == message if message.endswith(".") else said.startswith(message)


def test_a_cut_image_is_refused(tmp_path):
    whole = write(tmp_path / "a.png", Image.effect_noise((64, 64), 50)).read_bytes()
    write(tmp_path / "b.png", whole[: len(whole) // 2])
    assert refusal(tmp_path).startswith("b.png is not a readable image: ")


def test_missing_files_name_their_neighbours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "wine_red.csv", "a\n1\n")
    assert refusal("wine-red.csv") == "no such file: wine-red.csv; did you mean wine_red.csv?"
    assert refusal(tmp_path / "other.npy") == f"no such file: {tmp_path}/other.npy."
    assert refusal("nowhere/a.csv") == "no such file: nowhere/a.csv; the folder nowhere does not exist."
    assert refusal("digit") == "no file and no built-in data set is named 'digit'; did you mean digits?"
    assert refusal("zzz").startswith(
        "no file and no built-in data set is named 'zzz'; built-in names are digits, gaussian"
    )


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="source must be a path or the name of a data set; got list"):
        load([1.0, 2.0])


@pytest.mark.parametrize(("package", "file"), [("pandas", "a.csv"), ("pandas", "a.parquet"), ("PIL", "images")])
def test_missing_packages_name_the_extra(tmp_path, monkeypatch, package, file):
    if file == "images":
        for i in range(2):
            write(tmp_path / file / f"{i}.png", grey(i))
    else:
        write(tmp_path / file, "a\n1\n2\n")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "torchebm\[data\]"'):
        load(tmp_path / file)
