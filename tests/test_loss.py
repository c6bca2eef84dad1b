"""The losses against their formulas, term by term, in float64."""

import pytest
import torch

from loss import BalancedContrastiveLoss, ContrastiveLoss
from structure import shared_space, structure_targets


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
    structure = structure_targets(torch.randn(pairs, 3).double(), torch.randn(pairs, 3).double(), 0.5)
    ours = ContrastiveLoss(0.3, share)(image, text, structure)
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


def test_structure_targets_are_distributions_without_the_pair_itself():
    torch.manual_seed(0)
    targets = structure_targets(*shared_space(torch.randn(50, 12), torch.randn(50, 5)), 0.1)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(50))
    assert targets.diagonal().abs().max() == 0 and targets.min() >= 0


def test_shared_space_finds_what_the_modalities_share():
    torch.manual_seed(0)
    common = torch.randn(2000, 3)
    image, text = torch.cat([common, torch.randn(2000, 10)], 1), torch.cat([common, torch.randn(2000, 6)], 1)
    agreement = torch.cosine_similarity(*shared_space(image - image.mean(0), text - text.mean(0))).mean()
    unrelated = torch.cosine_similarity(*shared_space(torch.randn(2000, 13), torch.randn(2000, 9))).mean()
    assert agreement > 0.8 > unrelated + 0.3
