"""The networks: UCMFH's mathematics, the progressive scale, and codes that are an item's own."""

import pytest
import torch

from model import SCHEDULES, FeatureInput, FuseTransEncoder, HashModel, ImageMlp, TextMlp, scale_at


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_grow_from_exactly_scale_min_to_exactly_scale_max(schedule):
    scales = [scale_at(epoch / 99, 1.3, 10.7, schedule) for epoch in range(100)]
    assert scales[0] == 1.3 and scales[-1] == 10.7
    assert scales == sorted(scales)


def test_linear_schedule_is_the_guides():
    assert scale_at(50 / 99, 1.0, 10.0) == pytest.approx(5.5454545)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="linear"):
        scale_at(0.5, 1.0, 10.0, "cosine")


@pytest.mark.parametrize("head", [ImageMlp, TextMlp])
def test_codes_are_tanh_of_the_scaled_projection(head):
    torch.manual_seed(0)
    features, plain = torch.randn(32, 20), head(20, 8, use_progressive=False).eval()
    model = head(20, 8).eval()
    for scale in (1.0, 10.0):
        code = model(features, scale)
        torch.testing.assert_close(code, torch.tanh(scale * model.norm(model.perceptron(features))))
        assert torch.equal(code, torch.tanh(scale * model.x)) and model.scale == scale
        assert code.requires_grad and not model.x.requires_grad
    assert torch.equal(plain(features, 1.0), plain(features, 10.0))
    assert model(features, 10.0).abs().mean() > model(features, 1.0).abs().mean()


def test_batch_normalisation_makes_the_scale_act():
    torch.manual_seed(0)
    features = torch.randn(256, 20)
    head, plain = ImageMlp(20, 8).train(), ImageMlp(20, 8, batch_norm=False).train()
    head(features), plain(features)
    assert head.x.std(dim=0).sub(1).abs().max() < 0.05  # in units of its own standard deviation
    assert plain.x.abs().mean() < 0.3


@pytest.mark.parametrize("fusion", ["late", "transformer"])
def test_calibration_gives_the_training_pairs_balanced_bits_of_deviation_1(fusion):
    torch.manual_seed(0)
    image, text = 3 + torch.randn(100, 20), torch.randn(100, 12)
    model = HashModel(20, 12, [4, 8], fusion=fusion, noise=1.0)
    for head in (model.ImageMlp, model.TextMlp):
        head.tohash.weight.data *= 100  # so that batch norm's epsilon is nothing
    for _ in range(5):
        model.train()(image, text)  # moving averages, of features with noise
    model.calibrate(zip(image.split(33), text.split(33)))
    assert not model.training
    for head, side in zip((model.ImageMlp, model.TextMlp), model.fuse(image, text)):
        head(side)
        torch.testing.assert_close(head.x.mean(dim=0), torch.zeros(12), atol=1e-5, rtol=0)
        torch.testing.assert_close(head.x.std(dim=0, correction=0), torch.ones(12), atol=1e-3, rtol=0)


def test_heads_without_batch_norm_have_nothing_to_calibrate():
    model = HashModel(20, 12, [4], batch_norm=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.calibrate([(torch.randn(9, 20), torch.randn(9, 12))])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_fusion_is_a_transformer_encoder_over_one_token():
    torch.manual_seed(0)
    ours = FuseTransEncoder(6, 6, num_layers=2, feedforward=10).eval()
    layer = torch.nn.TransformerEncoderLayer(d_model=12, nhead=4, dim_feedforward=10)
    theirs = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for a, b in zip(ours.layers, theirs.layers):
        with torch.no_grad():
            b.self_attn.in_proj_weight[24:].copy_(a.value.weight)
            b.self_attn.in_proj_bias[24:].copy_(a.value.bias)
        b.self_attn.out_proj.load_state_dict(a.output.state_dict())
        for name in ("linear1", "linear2", "norm1", "norm2"):
            getattr(b, name).load_state_dict(getattr(a, name).state_dict())
    image, text = torch.randn(5, 6), torch.randn(5, 6)
    fused = torch.nn.functional.normalize(theirs(torch.cat([image, text], 1)[None])[0], dim=1)
    torch.testing.assert_close(torch.cat(ours(image, text), 1), fused)


@pytest.mark.parametrize("fusion", ["late", "transformer"])
def test_a_code_depends_on_its_own_item_alone(fusion):
    torch.manual_seed(0)
    image, text = torch.randn(40, 12), torch.randn(40, 7)
    model = HashModel(12, 7, [8, 16], fusion=fusion, hidden=16)
    model.image_input.fit(image), model.text_input.fit(text)
    model.train()(image, text)  # moves the running statistics
    model.eval()
    whole = model(image, text)
    single = [model(image[i:i + 1], text[i:i + 1]) for i in range(40)]
    for protocol in ("unpaired", "paired"):
        for side in (0, 1):
            torch.testing.assert_close(torch.cat([one[protocol][side] for one in single]), whole[protocol][side])
    other = model(image, torch.randn(40, 7))
    torch.testing.assert_close(other["unpaired"][0], whole["unpaired"][0])  # an image's code hasn't seen its text
    assert not torch.allclose(other["paired"][0], whole["paired"][0])
    for codes in whole["unpaired"]:
        assert codes.abs().max() < 1


@pytest.mark.parametrize("nested, lengths", [(False, [8, 16, 4]), (True, [4, 8, 16])])
def test_a_model_of_some_lengths_keeps_their_codes(nested, lengths):
    torch.manual_seed(0)
    image, text = torch.randn(30, 12), torch.randn(30, 7)
    model = HashModel(12, 7, lengths, hidden=16, nested=nested).eval()
    whole = model(image, text)
    for some in ([8], [16], [4], [4, 8]):
        part = model.only(some)
        codes = part(image, text)
        for protocol in whole:
            for bits in some:
                torch.testing.assert_close(part.split(codes[protocol][1])[bits],
                                           model.split(whole[protocol][1])[bits])


def test_nested_codes_are_the_beginnings_of_the_longest():
    model = HashModel(12, 7, [4, 8, 16], nested=True)
    codes = torch.randn(5, 16)
    assert model.width == 16 and model.ImageMlp.tohash.out_features == 16
    for bits, code in model.split(codes).items():
        assert torch.equal(code, codes[:, :bits])


@pytest.mark.parametrize("fusion", ["late", "transformer"])
def test_encode_takes_an_item_as_it_comes(fusion):
    torch.manual_seed(0)
    image, text = torch.randn(30, 12), torch.randn(30, 7)
    model = HashModel(12, 7, [8, 4], fusion=fusion, hidden=16).eval()
    whole = model(image, text, 3.0)
    for side, (code, x) in enumerate((model.encode(image=image, scale=3.0), model.encode(text=text, scale=3.0))):
        torch.testing.assert_close(code, whole["unpaired"][side])
        torch.testing.assert_close(code, torch.tanh(3 * x))
    code, x = model.encode(image, text)
    sides = [model.encode(image=image)[1], model.encode(text=text)[1]]
    if fusion == "transformer":
        sides = [torch.atanh(side) for side in model(image, text)["paired"]]
    torch.testing.assert_close(x, sum(sides) / 2**0.5, rtol=1e-4, atol=1e-5)
    assert torch.equal(code, torch.where(x >= 0, 1.0, -1.0))
    if fusion == "late":
        assert torch.equal(code, whole["paired"][0]) and torch.equal(code, whole["paired"][1])


@pytest.mark.parametrize("width, spread", [(10, 384), (384, 384), (1280, 1280)])
def test_noise_is_spread_over_the_dimensions_and_limited_in_narrow_features(width, spread):
    torch.manual_seed(0)
    inputs, features = FeatureInput(width, noise=0.5), torch.randn(2000, width)
    inputs.fit(features)
    still = inputs.eval()(features)
    torch.testing.assert_close(still.norm(dim=1), torch.ones(2000))
    noise = inputs.train()(features) - still
    assert noise.std().item() == pytest.approx(0.5 / spread**0.5, rel=0.03)
    raw = FeatureInput(width, centre=False, noise=0.5)
    noise = raw.train()(3 * still) - 3 * still  # relative to the length of a feature
    assert noise.std().item() == pytest.approx(3 * 0.5 / spread**0.5, rel=0.03)
