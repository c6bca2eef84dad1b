"""benchmarks/baselines and their canonical directions: each part against its formula, every method on pairs to tell apart."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn.functional import normalize

import metric
from benchmarks.baselines.cagan import CAGAN, GraphCode
from benchmarks.baselines.crovca import CroVCA
from benchmarks.baselines.deep import CIRH, DJSRH, UCCH, GraphNet
from benchmarks.baselines.ridge import RIDGES, choose_ridge, partner_rank
from benchmarks.baselines.shallow import itq_rotation
from benchmarks.baselines.ucmfh import UCMFH
from benchmarks.methods import METHODS
from common.errors import InputError
from training.cca import CCA

BITS = 8
SHORT = {"DJSRH": 40, "UCCH": 40, "CIRH": 40, "UCMFH": 8, "CAGAN": 10, "CroVCA": 80}  # epochs, enough for clusters
NAMES = list(METHODS)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setattr(UCCH, "width", 256)
    monkeypatch.setattr(CroVCA, "least_steps", 0)  # as many epochs as a test asks for


def pairs(count, seed, dim=24):
    """Images, texts and one-hot labels of ``count`` pairs from three clusters."""
    fixed, random = np.random.default_rng(7), np.random.default_rng(seed)
    centres, views = fixed.standard_normal((3, 12)), fixed.standard_normal((2, 12, dim))
    cluster = np.arange(count) % 3
    latent = centres[cluster] + 0.3 * random.standard_normal((count, 12))
    image, text = (torch.tensor(latent @ view + 0.3 * random.standard_normal((count, dim)), dtype=torch.float32)
                   for view in views)
    return image, text, np.eye(3, dtype=np.uint8)[cluster]


@pytest.fixture(scope="module")
def train():
    return pairs(96, seed=0)


@pytest.fixture(scope="module")
def test():
    return pairs(48, seed=1)


@pytest.fixture(scope="module")
def wide():
    """Pairs for CIRH, whose text network is as wide as its features; and CIRH trained on them."""
    train = pairs(96, seed=0, dim=128)
    return train, fitted("CIRH", train, bits=16)


def fitted(name, train, bits=BITS, seed=0, on_epoch=None, epochs=None):
    method = METHODS[name](bits, seed=seed)
    if method.epochs is not None:
        method.epochs = epochs or SHORT[name]
    method.fit(train[0], train[1], on_epoch)
    return method


# --- all methods ------------------------------------------------------------------------------------------------------


def test_the_methods_are_these_and_say_where_they_are_from():
    assert NAMES == ["LSH", "CCA", "CCA-ITQ", "DJSRH", "UCCH", "CIRH", "UCMFH", "CAGAN", "CroVCA"]
    assert [METHODS[name].epochs for name in NAMES] == [None, None, None, 80, 20, 60, 100, 20, 5]
    assert [name for name in NAMES if METHODS[name].paired] == ["UCMFH"]
    assert all(name == METHODS[name].name and METHODS[name].reference[-4:].isdigit() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_short_fit_retrieves_far_above_chance(name, train, request):
    method = request.getfixturevalue("wide")[1] if name == "CIRH" else fitted(name, train, bits=16)
    test = pairs(48, seed=1, dim=128 if name == "CIRH" else 24)
    kwargs = [dict(text=test[1]), dict(image=test[0])] if method.paired else [{}, {}]
    outputs = method.encode_image(test[0], **kwargs[0]), method.encode_text(test[1], **kwargs[1])
    for codes in outputs:
        assert codes.shape == (48, 16) and codes.dtype == torch.float32 and codes.isfinite().all()
        assert not method.bounded or codes.abs().max() <= 1
    image, text = (metric.sign_codes(codes.numpy()) for codes in outputs)
    expected = 0.5 if method.epochs is None else 0.7  # random codes have 0.37, and bits of noise cost CCA a lot
    for query, items in ((image, text), (text, image)):
        assert metric.mean_average_precision(query, items, test[2], test[2]) > expected


@pytest.mark.parametrize("name", NAMES)
def test_an_item_has_the_same_code_alone_as_among_others(name, train, test):
    method = fitted(name, train, epochs=2)
    for encode, own, other in ((method.encode_image, *test[:2]), (method.encode_text, test[1], test[0])):
        for partner in (None, other):
            together = encode(own, partner)
            alone = torch.cat([encode(own[i:i + 1], None if partner is None else partner[i:i + 1]) for i in range(9)])
            torch.testing.assert_close(together[:9], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name, train, test):
    first, again, other = (fitted(name, train, seed=seed, epochs=2).encode_text(test[1]) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    if name != "CCA":  # its only random choice is which pairs judge the ridge
        assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_the_units_of_features_do_not_matter(name, train, test):
    larger = fitted(name, [4 * train[0], train[1] / 2], epochs=1)
    assert torch.equal(larger.encode_image(4 * test[0]), fitted(name, train, epochs=1).encode_image(test[0]))
    assert torch.equal(larger.encode_text(test[1] / 2), fitted(name, train, epochs=1).encode_text(test[1]))


@pytest.mark.parametrize("name", [name for name in NAMES if not METHODS[name].unit])
def test_without_unit_length_both_modalities_are_as_long_on_average(name, train):
    method = METHODS[name](BITS)
    method.epochs = 1
    method.fit(1000 * train[0], train[1])
    length = min(side.shape[1] for side in train[:2])**0.5
    for of, side in enumerate((1000 * train[0], train[1])):
        seen = method._seen(of, side)
        assert seen.norm(dim=1).mean().item() == pytest.approx(length, rel=1e-5)
        torch.testing.assert_close(seen / seen[0].norm(), side / side[0].norm())  # nothing else changes


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].unit])
def test_the_length_of_features_does_not_matter(name, train, test):
    longer = fitted(name, [4 * train[0], train[1] / 2], epochs=1)
    assert torch.equal(longer.encode_image(8 * test[0]), fitted(name, train, epochs=1).encode_image(test[0]))


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].epochs])
def test_each_epoch_is_reported_and_may_encode_without_changing_the_training(name, train, test):
    seen = []
    method = METHODS[name](BITS)
    method.epochs = 3
    method.fit(*train[:2], lambda epoch: seen.append((epoch, method.encode_image(test[0]))))
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert not torch.equal(seen[0][1], seen[2][1])
    assert torch.equal(seen[2][1], fitted(name, train, epochs=3).encode_image(test[0]))


@pytest.mark.parametrize("name", NAMES)
def test_too_few_or_unequal_pairs_are_refused(name, train):
    image, text, _ = train
    for arguments in ((image[:9], text[:9]), (image, text[:-1])):
        with pytest.raises(InputError, match=f"{name}: .* 16 or more"):
            METHODS[name](BITS).fit(*arguments)


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS[name].epochs])
def test_a_loss_that_is_not_finite_stops_the_training(name, train):
    method = METHODS[name](BITS)
    with pytest.raises(InputError, match=f"{name}: the loss is nan in epoch 1"):
        method.fit(torch.full_like(train[0], torch.inf), train[1])


# --- CCA, ITQ, LSH ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_cca_solves_the_generalised_eigenvalue_problem(ridge):
    random = np.random.default_rng(0)
    image = random.standard_normal((200, 7)) + 5
    text = image[:, :4] @ random.standard_normal((4, 5)) + random.standard_normal((200, 5))
    covariance = np.cov(image, text, rowvar=False, bias=True)
    inside = scipy.linalg.block_diag(covariance[:7, :7], covariance[7:, 7:])
    ridges = ridge * np.repeat([np.trace(inside[:7, :7]) / 7, np.trace(inside[7:, 7:]) / 5], [7, 5])
    values, vectors = scipy.linalg.eigh(covariance - inside, inside + np.diag(ridges))
    values, vectors = values[::-1][:5], 2**0.5 * vectors[:, ::-1][:, :5]  # eigh makes both sides' lengths add up to 1

    image_directions, text_directions, correlations = CCA(torch.tensor(image), torch.tensor(text)).directions(ridge, 5)
    np.testing.assert_allclose(correlations, values, atol=1e-10)
    ours = np.concatenate([image_directions, text_directions])
    np.testing.assert_allclose(ours * np.sign(ours[0]), vectors * np.sign(vectors[0]), atol=1e-8)


def test_partner_rank_is_the_geometric_mean_of_ranks():
    image, text = torch.randn(9, 4).double(), torch.randn(9, 4).double()
    ranks = []
    for a, b in ((image, text), (text, image)):
        for i in range(9):
            cosine = [torch.cosine_similarity(a[i], b[j], dim=0) for j in range(9)]
            ranks.append(sum(value >= cosine[i] for value in cosine).item())
    assert partner_rank(image, text) == pytest.approx(np.exp(np.mean(np.log(ranks))))
    assert partner_rank(image, 3 * image) == 1


def test_the_ridge_is_the_best_for_the_pairs_left_out_and_larger_the_more_noise_there_is():
    random = torch.Generator().manual_seed(0)
    latent = torch.randn(240, 4, generator=random)
    quiet, noisy = ([torch.cat([latent + noise * torch.randn(240, 4, generator=random),
                                torch.randn(240, 60, generator=random)], dim=1) for _ in range(2)]
                    for noise in (0.1, 1.0))
    assert choose_ridge(*quiet, 4, seed=0) < choose_ridge(*noisy, 4, seed=0)
    eighths = torch.randperm(240, generator=torch.Generator().manual_seed(0)).reshape(30, 8).T
    ranks = {}
    for ridge in RIDGES:
        logarithms = []
        for eighth in eighths:
            kept = [row for row in range(240) if row not in eighth.tolist()]
            maps = CCA(*(side[kept] for side in noisy)).maps(ridge, 4)
            logarithms.append(np.log(partner_rank(*(m(side[eighth]) for m, side in zip(maps, noisy)))))
        ranks[ridge] = np.mean(logarithms)
    assert ranks[choose_ridge(*noisy, 4, seed=0)] == min(ranks.values()) < max(ranks.values())


def test_itq_rotates_and_never_raises_the_quantization_loss():
    points = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)).double()
    losses = []
    for iterations in range(12):
        torch.manual_seed(1)
        rotation = itq_rotation(points, iterations)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(6).double())
        rotated = points @ rotation
        losses.append(((rotated.sign() - rotated) ** 2).sum().item())
    assert all(after <= before + 1e-9 for before, after in zip(losses, losses[1:])) and losses[-1] < 0.98 * losses[0]


def test_itq_only_rotates_what_cca_finds_weighted_by_correlation(train, test):
    itq = fitted("CCA-ITQ", train)
    unit = [normalize(side, dim=1) for side in train[:2]]
    *directions, correlations = CCA(*unit).directions(choose_ridge(*unit, BITS, seed=0), BITS)
    for encode, direction, known, side in zip((itq.encode_image, itq.encode_text), directions, unit, test):
        weighted = (normalize(side, dim=1) - known.mean(dim=0)).double() @ direction @ torch.diag(correlations)
        torch.testing.assert_close(encode(side).norm(dim=1), weighted.norm(dim=1).float(), rtol=1e-4, atol=1e-5)


def test_the_angle_decides_how_many_bits_of_lsh_differ(train, test):
    method = METHODS["LSH"](8192)
    method.fit(*train[:2])
    unit = [normalize(side, dim=1) for side in train[:2]]
    maps = CCA(*unit).maps(choose_ridge(*unit, 24, seed=0), 24)
    image, text = (m(normalize(side, dim=1)) for m, side in zip(maps, test))
    differ = (method.encode_image(test[0]).sign() != method.encode_text(test[1]).sign()).double().mean(dim=1)
    angle = torch.arccos(torch.cosine_similarity(image, text))
    torch.testing.assert_close(differ, angle / np.pi, atol=0.03, rtol=0)


@pytest.mark.parametrize("name", ["CCA", "CCA-ITQ"])
def test_more_bits_than_canonical_directions_are_refused(name, train):
    with pytest.raises(InputError, match="25 bits asked for, .* 24 canonical directions; use 24 bits or fewer"):
        METHODS[name](25).fit(*train[:2])


# --- the losses, loop by loop -----------------------------------------------------------------------------------------


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


def mean_squared(values):
    return float(np.mean(np.square(np.asarray(values))))


@pytest.fixture
def batch():
    """Features (5, 6), (5, 4) and codes (5, 3) of images and texts."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(5, width, generator=random).double() for width in (6, 4, 3, 3)]


def test_djsrh_against_its_formula(batch):
    image, text, image_code, text_code = batch
    joint = np.array([[0.9 * (2 * cosine(image[i], image[j]) - 1) + 0.1 * (2 * cosine(text[i], text[j]) - 1)
                       for j in range(5)] for i in range(5)])
    second = np.array([[sum(joint[i, k] * joint[j, k] for k in range(5)) / 5 for j in range(5)] for i in range(5)])
    target = 1.5 * (0.6 * joint + 0.4 * second)
    np.testing.assert_allclose(DJSRH.affinity(image, text), target, atol=1e-12)
    terms = [mean_squared([[cosine(a[i], b[j]) - target[i, j] for j in range(5)] for i in range(5)])
             for a, b in ((image_code, text_code), (image_code, image_code), (text_code, text_code))]
    loss = DJSRH.loss(torch.tensor(target), image_code, text_code)
    assert loss.item() == pytest.approx(terms[0] + 0.1 * terms[1] + 0.1 * terms[2])


def first_step(method, sides, epoch=1):
    """A training's first loss, and the method before that step; what is drawn next is what the step drew."""
    torch.manual_seed(0)
    method._build(*sides)
    before = copy.deepcopy(method)
    torch.manual_seed(1)
    loss = next(method._epoch(epoch, *sides)).item()
    torch.manual_seed(1)
    return loss, before


def test_djsrh_trains_with_the_affinity_of_both_modalities(train):
    loss, before = first_step(METHODS["DJSRH"](BITS), train[:2])
    rows = torch.randperm(96)[:32]
    image, text = (side[rows] for side in train[:2])
    codes = [net(side) for net, side in zip(before.hash, (image, text))]  # the first epoch's scale is 1
    assert loss == pytest.approx(DJSRH.loss(DJSRH.affinity(image, text), *codes).item(), rel=1e-5)


def test_djsrh_scales_by_the_root_of_the_epoch(train):
    method, scales = METHODS["DJSRH"](BITS), []
    method.epochs = 4
    method.fit(*train[:2], lambda epoch: scales.append([net.scale for net in method.hash]))
    np.testing.assert_allclose(scales, [[1, 1], [2**0.5] * 2, [3**0.5] * 2, [2, 2]])


def test_ucch_contrast_against_its_formula(batch):
    outputs, codes = normalize(batch[2], dim=1), batch[3].sign()
    picks = torch.tensor([[0, 3, 3], [4, 1, 0], [2, 2, 1], [1, 0, 4], [3, 4, 2]])
    total = 0.0
    for i in range(5):
        scores = [np.exp(cosine(outputs[i], codes[j]) / 0.9) for j in picks[i]]
        total -= np.log(scores[0] / sum(scores))
    assert UCCH.contrast(outputs, codes, picks).item() == pytest.approx(total / 5)


def test_ucch_ranking_against_its_formula(batch):
    image, text = (normalize(code, dim=1) for code in batch[2:])
    scores = (image @ text.T).numpy()
    total, shifted = 0.0, 0
    for s in (scores, scores.T):
        for i in range(5):
            near = [s[i, j] >= s[i, i] - 0.2 for j in range(5)]
            shifted += 5 - sum(near)
            total += np.log(sum(np.exp(s[i, j] - (0 if near[j] else 0.1)) for j in range(5))) - s[i, i]
    assert 0 < shifted < 40
    assert UCCH.ranking(image, text).item() == pytest.approx(total / 5)


def test_ucch_trains_both_modalities_by_seven_tenths_contrast(train):
    loss, before = first_step(METHODS["UCCH"](BITS), train[:2], epoch=2)
    rows = torch.randperm(96)
    picks = torch.cat([rows[:, None], torch.randint(96, (96, 4096))], dim=1)
    sides = [normalize(net(side[rows]), dim=1) for net, side in zip(before.hash, train)]
    contrast = sum(UCCH.contrast(side, before.memory.sign(), picks) for side in sides)
    assert loss == pytest.approx((0.7 * contrast + 0.3 * UCCH.ranking(*sides)).item(), rel=1e-5)


def test_ucch_clips_the_gradients_of_all_weights_before_each_step(train, monkeypatch):
    method, clipped = METHODS["UCCH"](BITS), []
    torch.manual_seed(0)
    method._build(*train[:2])
    before = [weight.detach().clone() for weight in method.hash.parameters()]

    def clip(parameters, limit):
        assert limit == 1.0 and all(weight.grad is not None for weight in parameters)
        clipped.append([weight.detach().clone() for weight in parameters])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    for epoch in (1, 2):
        list(method._epoch(epoch, *train[:2]))
    assert [len(weights) for weights in clipped] == [len(before)] * 2
    assert all(map(torch.equal, clipped[0], before)) and not any(map(torch.equal, *clipped))


def test_ucch_remembers_with_momentum(train):
    method = METHODS["UCCH"](BITS)
    torch.manual_seed(0)
    method._build(*train[:2])

    def outputs():
        with torch.no_grad():
            return normalize(sum(normalize(net(side), dim=1) for net, side in zip(method.hash, train)), dim=1)

    first = outputs()
    list(method._epoch(1, *train[:2]))  # all 96 pairs are one batch
    torch.testing.assert_close(method.memory, first)
    second = outputs()
    list(method._epoch(2, *train[:2]))
    torch.testing.assert_close(method.memory, normalize(0.4 * first + 0.6 * second, dim=1))


def test_cirh_affinity_against_its_formula(batch):
    image, text = (normalize(side, dim=1) for side in batch[:2])
    first = (0.6 * image @ image.T + 0.4 * text @ text.T).numpy()
    for row in first:
        row[np.argsort(row)[:3]] = 0  # three fifths
    second = 2 / (1 + np.exp(-first)) - 1 + np.eye(5)
    expected = 0.6 * first + 0.4 * (second + second.T) / 2
    cut = CIRH.cut(image, text, rows=2)
    np.testing.assert_allclose(CIRH.affinity(image, text, cut), expected, atol=1e-12)
    part = [3, 0, 4]
    np.testing.assert_allclose(CIRH.affinity(image[part], text[part], cut[part]), expected[np.ix_(part, part)],
                               atol=1e-12)


def test_cirh_teaches_the_hash_functions_the_codes_of_the_graph(wide):
    train, method = wide
    unit = [normalize(side, dim=1) for side in train[:2]]
    with torch.no_grad():
        codes = method.graph(*unit, method.affinity(*unit, method.cuts))[2].sign()
    for outputs in (method.encode_image(train[0]), method.encode_text(train[1])):
        assert (outputs.sign() == codes).float().mean() > 0.65  # 0.5 by chance


def test_cirh_trains_its_graph_to_rebuild_the_features_and_keep_the_affinity(wide):
    sides = [normalize(side, dim=1) for side in wide[0][:2]]
    loss, before = first_step(METHODS["CIRH"](BITS), sides)
    rows = torch.randperm(96)
    affinity = CIRH.affinity(*(side[rows] for side in sides), before.cuts[rows])
    mixed = [CIRH.mix(side[rows], affinity) for side in sides]
    image, text, joint, decoded = before.graph(*mixed, affinity)
    rebuilt = sum(((found - given) ** 2).mean() for found, given in zip(decoded, mixed))
    kept = sum(((torch.cosine_similarity(codes[:, None], codes[None], dim=2) - affinity) ** 2).mean()
               for codes in (image, text, joint))
    assert loss == pytest.approx((10 * rebuilt + kept + ((joint - joint.sign()) ** 2).mean()).item(), rel=1e-5)


def test_cirh_mixes_in_the_second_and_third_neighbour():
    features = torch.randn(5, 6)
    affinity = torch.tensor([[9., 5, 7, 3, 1], [1, 9, 2, 3, 4], [0, 7, 9, 8, 6], [4, 3, 2, 9, 1], [8, 7, 6, 5, 9]])
    a, b, c, d, e = features
    expected = [0.7 * a + 0.2 * b + 0.1 * d, 0.7 * b + 0.2 * d + 0.1 * c, 0.7 * c + 0.2 * b + 0.1 * e,
                0.7 * d + 0.2 * b + 0.1 * c, 0.7 * e + 0.2 * b + 0.1 * c]
    torch.testing.assert_close(CIRH.mix(features, affinity), torch.stack(expected))


def test_cirh_hash_loss_against_its_formula(batch):
    image, text = batch[2:]
    target, affinity = image.sign(), torch.randn(5, 5).double()
    expected = mean_squared(image - target) + mean_squared(text - target) + mean_squared(image - text)
    for a, b in ((image, text), (image, image), (text, text)):
        expected += 0.01 * mean_squared([[cosine(a[i], b[j]) - affinity[i, j] for j in range(5)] for i in range(5)])
    assert CIRH.hash_loss(image, text, target, affinity).item() == pytest.approx(expected)


def test_cirh_passes_features_over_the_graph_of_both_modalities(batch):
    image, text, affinity = batch[0], batch[1], torch.rand(5, 5).double()
    torch.manual_seed(0)
    net = GraphNet(6, 4, bits=3, width=8).double().eval()
    graph = torch.cat([torch.cat([affinity, torch.eye(5)], dim=1), torch.cat([torch.eye(5), affinity], dim=1)])
    nodes = [normalize(net.encoders[0](image), dim=1), normalize(net.encoders[1](text), dim=1)]
    together = net.together_norm(graph @ net.together(torch.cat(nodes)))
    together = torch.relu(together[:5] + together[5:])
    alone = [torch.relu(net.alone_norm[k](affinity @ net.alone[k](nodes[k]))) for k in (0, 1)]
    image_bits, text_bits = (net.to_bits[k](torch.cat([alone[k], together], dim=1)) for k in (0, 1))
    joint = torch.tanh(net.to_code(torch.cat([image_bits, net.together_to_bits(together), text_bits], dim=1)))
    got_image, got_text, got_joint, decoded = net(image, text, affinity)
    for got, expected in ((got_image, image_bits), (got_text, text_bits), (got_joint, joint),
                          (decoded[0], net.decoders[0](joint + torch.tanh(image_bits))),
                          (decoded[1], net.decoders[1](joint + torch.tanh(text_bits)))):
        torch.testing.assert_close(got, expected)


def test_ucmfh_loss_against_its_formula(batch):
    fused, codes = (batch[0][:, :4], batch[1]), (batch[2], batch[3])
    total = 0.0
    for weight, sides in ((1, fused), (0.5, codes)):
        z = torch.cat(sides)
        for k in range(10):
            scores = [np.exp(cosine(z[k], z[other]) / 0.5) for other in range(10)]
            total -= weight / 10 * np.log(scores[(k + 5) % 10] / (sum(scores) - scores[k]))
    assert UCMFH.loss(fused, codes).item() == pytest.approx(total)


def test_ucmfh_takes_a_missing_modality_as_zeros_and_an_item_from_both(train, test):
    for dims in (24, 10):  # as they are, or through a layer to 512 each
        method = METHODS["UCMFH"](BITS)
        method.epochs = 1
        method.fit(train[0], train[1][:, :dims])
        image, text = test[0], test[1][:, :dims]
        torch.testing.assert_close(method.encode_image(image), method.encode_image(image, torch.zeros_like(text)))
        torch.testing.assert_close(method.encode_text(text), method.encode_text(text, torch.zeros_like(image)))
        assert not torch.allclose(method.encode_image(image), method.encode_image(image, text), atol=1e-3)


def test_ucmfh_counts_the_steps_of_its_schedule(train):
    method, rates = UCMFH(BITS), []
    method.epochs, method.batch_size = 8, 8  # 12 steps an epoch
    method.fit(*train[:2], lambda epoch: rates.append([o.param_groups[0]["lr"] for o in method.optimizers]))
    np.testing.assert_allclose(rates, 2 * [[1e-4, 1e-3]] + 4 * [[1e-4, 1.2e-3]] + 2 * [[1e-4, 1.44e-3]])


def test_cagan_affinity_against_its_formula(batch):
    image, text = ([[2 * cosine(a, b) - 1 for b in side] for a in side] for side in batch[:2])
    expected = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            joint = np.dot(image[i], text[j]) / (np.linalg.norm(image[i]) * np.linalg.norm(text[j]))
            expected[i, j] = 1.4 * (0.5 * image[i][j] + 0.2 * text[i][j] + 0.3 * joint)
    assert not np.allclose(expected, expected.T)
    np.testing.assert_allclose(CAGAN.affinity(*batch[:2]), expected, atol=1e-12)


def test_cagan_loss_against_its_formula(batch):
    image, text = batch[2:]
    graph_image, graph_text, affinity = (torch.randn(5, width).double() for width in (3, 3, 5))
    expected = -np.mean([cosine(a, b) for a, b in zip(image, text)])
    for weight, a, b in ((0.1, image, image), (0.1, text, text), (1, image, text), (1, text, image),
                         (1, graph_image, graph_text), (0.15, graph_image, image), (0.15, graph_image, text)):
        expected += weight * mean_squared([[cosine(a[i], b[j]) - affinity[i, j] for j in range(5)] for i in range(5)])
    assert CAGAN.loss(affinity, (image, text), (graph_image, graph_text)).item() == pytest.approx(expected)


def test_cagan_passes_features_over_the_graph_and_what_it_learns(batch):
    image, affinity = batch[0], torch.randn(5, 5).double()
    net = GraphCode(6, bits=3, items=5).double()
    net.code.scale = 2.0
    graph = affinity + 0.45 * net.added
    hidden = image
    for layer in net.layers:  # a graph convolution: features times weights, then summed over neighbours, plus bias
        hidden = torch.relu(graph @ (hidden @ layer.weight.T) + layer.bias)
    torch.testing.assert_close(net(image, affinity), torch.tanh(2 * net.code[0](hidden)))


def test_cagan_scales_all_its_networks_by_the_root_of_the_epoch(train):
    method, scales = METHODS["CAGAN"](BITS), []
    method.epochs = 4
    method.fit(*train[:2], lambda epoch: scales.append(
        [net.scale for net in (*method.hash, *(graph.code for graph in method.graphs))]))
    np.testing.assert_allclose(scales, [[1] * 4, [2**0.5] * 4, [3**0.5] * 4, [2] * 4])


def test_crovca_loss_against_its_formula(batch):
    image, text = batch[2:]
    expected = 0.0
    for a, b in ((image, text), (text, image)):
        bits = [[1 / (1 + np.exp(-z if target > 0 else z)) for z, target in zip(*rows)]
                for rows in zip(a.tolist(), b.tolist())]  # the probability of the other view's bit
        unit = np.array([row / np.linalg.norm(row) for row in a.numpy()])
        spread = np.linalg.eigvalsh(unit.T @ unit)  # det(1 + c Z'Z) is the product of 1 + c times its eigenvalues
        rate = (5 + 3) / (2 * 5 * 3) * np.log(1 + 3 / (5 * 0.05) * spread).sum()
        expected += (-np.mean(np.log(bits)) - 0.1 * rate) / 2
    assert CroVCA.loss(image, text).item() == pytest.approx(expected)


def test_the_coding_rate_is_lower_the_more_alike_the_codes():
    random = torch.Generator().manual_seed(0)
    same, noise = torch.randn(1, 16, generator=random), torch.randn(200, 16, generator=random)
    rates = [CroVCA.coding_rate(same + share * noise).item() for share in (0.0, 0.1, 1.0, 10.0)]
    assert rates == sorted(rates) and rates[0] < rates[-1] / 4


def test_crovca_does_not_collapse(train, monkeypatch):
    """Bits that are the same for all items, or all the same bit, would agree between views just as well."""
    def redundancy():
        codes = fitted("CroVCA", train, bits=16).encode_image(train[0]).sign()
        assert (codes.mean(dim=0).abs() < 0.9).all()
        return (codes.T @ codes / len(codes)).triu(1).abs().sum() / 120  # mean correlation of two bits

    kept = redundancy()
    monkeypatch.setattr(CroVCA, "weight", 0.0)
    assert kept < redundancy() - 0.05


def test_crovca_trains_for_as_many_steps_as_published(train, monkeypatch):
    monkeypatch.setattr(CroVCA, "least_steps", 22)
    monkeypatch.setattr(CroVCA, "batch_size", 32)
    epochs, rates = [], []
    for pairs_used, expected in ((96, 8), (40, 22)):  # of 3 steps, and of one
        method = CroVCA(BITS)
        method.fit(train[0][:pairs_used], train[1][:pairs_used], lambda epoch: epochs.append(epoch))
        assert epochs.pop() == expected == method.epochs
        rates.append(method.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, 1e-6)
    monkeypatch.setattr(CroVCA, "least_steps", 15)
    method = CroVCA(BITS)
    method.fit(*train[:2])
    assert method.epochs == 5  # never fewer than published


def test_crovca_codes_are_expected_bits(train, test):
    method = fitted("CroVCA", train, epochs=2)
    with torch.no_grad():
        outputs = method.hash[0](normalize(test[0], dim=1))
    torch.testing.assert_close(method.encode_image(test[0]), 2 * torch.sigmoid(outputs) - 1)


def test_batches_are_whole_unless_the_method_takes_less():
    method = DJSRH(BITS)
    assert sorted(len(rows) for rows in method._batches(75)) == [32, 32]
    assert sorted(len(rows) for rows in method._batches(75, least=4)) == [11, 32, 32]
    assert [len(rows) for rows in method._batches(20)] == [20]
    assert sorted(torch.cat(method._batches(64)).tolist()) == list(range(64))
