"""The losses against their formulas, term by term, in float64."""

import pytest
import torch

from loss import BalancedContrastiveLoss, ContrastiveLoss
from training.targets import (contrast_temperatures, feature_neighbours, neighbour_counts, neighbour_temperature,
                              shared_space)


def naive(image, text, temperature, structure=None, share=0.0):
    z = [row / row.norm() for row in torch.cat([image, text])]
    pairs, total = len(image), 0.0
    for k in range(2 * pairs):
        s = [(z[k] @ other) / temperature for other in z]
        positive = s[(k + pairs) % (2 * pairs)]
        if structure is not None:
            alike = sum(structure[k % pairs, j] * (s[j] + s[pairs + j]) / 2 for j in range(pairs))
            positive = (1 - share) * positive + share * alike
        total = total + torch.log(sum(torch.exp(s[other]) for other in range(2 * pairs) if other != k)) - positive
    return total / (2 * pairs)


@pytest.mark.parametrize("pairs", [2, 5, 9])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_loss_and_gradient_equal_the_formula(pairs, share):
    torch.manual_seed(pairs)
    image, text = (torch.randn(pairs, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    structure = feature_neighbours(torch.randn(pairs, 3).double(), torch.randn(pairs, 3).double(), [0.5])
    ours = ContrastiveLoss(0.3)(image, text, structure, share)
    theirs = naive(image, text, 0.3, structure, share)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (image, text)), torch.autograd.grad(theirs, (image, text))):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_balanced_loss_at_one_half_is_the_plain_one():
    image, text = torch.randn(8, 4), torch.randn(8, 4)
    torch.testing.assert_close(BalancedContrastiveLoss(0.3)(image, text), ContrastiveLoss(0.3)(image, text))


def train_with_adam(loss):
    torch.manual_seed(0)
    features = torch.randn(16, 10), torch.randn(16, 10)
    layer = torch.nn.Linear(10, 6)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        loss(*map(layer, features)).backward()
        optimizer.step()
    return layer.weight.detach()


def test_the_balanced_weight_changes_training_under_adam_where_a_factor_does_not():
    plain = train_with_adam(ContrastiveLoss())
    factor = train_with_adam(lambda image, text: 7 * ContrastiveLoss()(image, text))
    weighted = train_with_adam(BalancedContrastiveLoss(positive_weight=0.8))
    assert (factor - plain).abs().max() < 1e-3
    assert (weighted - plain).abs().max() > 0.05


def test_feature_neighbours_are_distributions_without_the_pair_itself():
    torch.manual_seed(0)
    targets = feature_neighbours(*shared_space(torch.randn(50, 12), torch.randn(50, 5)), [0.1, 0.4])
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(50))
    assert targets.diagonal().abs().max() == 0 and targets.min() >= 0


def test_feature_neighbours_follow_both_modalities_alike():
    image, text = (torch.nn.functional.normalize(torch.randn(6, width), dim=1) for width in (3, 4))
    targets = feature_neighbours(image, text, [0.2, 0.7])
    for pair in range(6):
        others = [other for other in range(6) if other != pair]
        similarity = torch.stack([(image[pair] @ image[other] + text[pair] @ text[other]) / 2 for other in others])
        narrow, wide = ((similarity / temperature).exp() for temperature in (0.2, 0.7))
        torch.testing.assert_close(targets[pair, others], narrow / narrow.sum() / 2 + wide / wide.sum() / 2)


@pytest.mark.parametrize("batch, counts", [(2, [1]), (7, [1]), (8, [2]), (31, [2, 4]), (128, [2, 4, 8, 16, 32]),
                                           (300, [2, 4, 8, 16, 32, 64])])
def test_neighbours_are_looked_for_on_all_scales_up_to_a_quarter_of_the_batch(batch, counts):
    assert neighbour_counts(batch) == counts


def test_shared_space_finds_what_the_modalities_share():
    torch.manual_seed(0)
    common = torch.randn(2000, 3)
    image, text = torch.cat([common, torch.randn(2000, 10)], 1), torch.cat([common, torch.randn(2000, 6)], 1)
    agreement = torch.cosine_similarity(*shared_space(image - image.mean(0), text - text.mean(0))).mean()
    unrelated = torch.cosine_similarity(*shared_space(torch.randn(2000, 13), torch.randn(2000, 9))).mean()
    assert agreement > 0.8 > unrelated + 0.3


def features(pairs, shared, own, seed=0):
    """Image and text features with ``shared`` common latent dimensions, and noise of ``own`` times their size."""
    random = torch.Generator().manual_seed(seed)
    latent = torch.randn(pairs, shared, generator=random)
    sides = []
    for width in (40, 30):
        side = latent @ torch.randn(shared, width, generator=random) / shared**0.5
        side = side + own * torch.randn(pairs, width, generator=random)
        sides.append(torch.nn.functional.normalize(side - side.mean(dim=0), dim=1))
    return sides


@pytest.mark.parametrize("count", [3, 6, 20])
def test_the_neighbour_temperature_gives_the_count_that_is_asked_for(count):
    spaces = shared_space(*features(512, 12, 0.5))
    found = neighbour_temperature(*spaces, batch=64, count=count)
    entropy = []
    for start in range(0, 512, 64):  # another partition into batches: the count is that of batches at large
        row = feature_neighbours(*(side[start:start + 64] for side in spaces), [found])
        entropy.append(-(row.clamp_min(1e-30).log() * row).sum(dim=1).mean())
    assert torch.stack(entropy).mean().exp().item() == pytest.approx(count, rel=0.1)


def test_the_temperature_falls_as_partners_get_surer():
    sure, unsure, hopeless = (contrast_temperatures(*features(800, 12, own), [4, 12, 128], batch=50)
                              for own in (0.5, 1.0, 1000.0))
    for bits in (4, 12):
        assert 0.05 <= sure[bits] < unsure[bits] - 0.02
    assert sure[12] < sure[4] - 0.02  # more bits tell partners better
    assert all(value == pytest.approx(0.5, abs=0.01) for value in hopeless.values())


def test_the_temperature_is_half_the_uncertainty_that_held_out_partners_leave():
    """Four kinds of pairs, told without fail: the uncertainty that is left is the choice among a batch's own kind."""
    kind = torch.arange(4096) % 4
    image, text = torch.eye(4)[kind] - 0.25, (torch.eye(4) - 0.25)[kind][:, torch.tensor([2, 0, 3, 1])]
    expected = 0.5 * torch.log(torch.tensor(64 / 4)) / torch.log(torch.tensor(64.0))
    assert contrast_temperatures(image, text, [8], batch=64)[8] == pytest.approx(expected.item(), abs=0.01)


def test_both_directions_say_how_surely_partners_are_told():
    found = [contrast_temperatures(*sides, [4], batch=50)[4]
             for sides in (features(800, 4, 1.0), features(800, 4, 1.0)[::-1])]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_too_few_pairs_to_hold_any_out_get_the_published_temperature():
    assert contrast_temperatures(*features(120, 3, 0.1), [16], batch=64) == {16: 0.5}
    assert contrast_temperatures(*features(128, 3, 0.1), [16], batch=64)[16] < 0.4
