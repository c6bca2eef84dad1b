"""Other methods of unsupervised cross-modal hashing behind one interface, :class:`Baseline`, a file or a few to each.

Each is written from its paper, with the settings that its authors published for MIRFlickr-25K; where the paper leaves
something open, from the facts in their code. All see the same frozen features; what some fine-tune below them (DJSRH's
AlexNet) is outside. Nothing reads labels. benchmarks/methods.py has their names.
"""

from benchmarks.baselines.base import Baseline, DeepBaseline

__all__ = ["Baseline", "DeepBaseline"]
