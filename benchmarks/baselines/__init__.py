"""Other methods of unsupervised cross-modal hashing with one interface: fit on pairs, encode one modality.

Each is written from its paper, with the settings that its authors published for MIRFlickr-25K; where the paper leaves
something open, from the facts in their code. All see the same frozen features, brought to unit length so that neither
modality drowns the other, except those whose code leaves them as they are (UCCH, CAGAN); what some fine-tune below them
(DJSRH's AlexNet) is outside. Nothing reads labels.

    method = METHODS["CCA-ITQ"](bits=64, seed=0)
    method.fit(train.image, train.text)
    codes = metric.sign_codes(method.encode_image(query.image))
"""

from __future__ import annotations

from benchmarks.baselines.base import Baseline, DeepBaseline, Unsuited, evaluate, evaluate_last
from benchmarks.baselines.cagan import CAGAN, GraphCode
from benchmarks.baselines.crovca import CroVCA
from benchmarks.baselines.deep import CIRH, DJSRH, UCCH, GraphNet
from benchmarks.baselines.shallow import CanonicalITQ, CanonicalLSH, CanonicalSign, itq_rotation
from benchmarks.baselines.ucmfh import UCMFH

__all__ = ["CAGAN", "CIRH", "DJSRH", "METHODS", "UCCH", "UCMFH", "Baseline", "CanonicalITQ", "CanonicalLSH",
           "CanonicalSign", "CroVCA", "DeepBaseline", "GraphCode", "GraphNet", "Unsuited", "evaluate",
           "evaluate_last", "itq_rotation"]

METHODS: dict[str, type[Baseline]] = {
    method.name: method for method in (
        CanonicalLSH, CanonicalSign, CanonicalITQ, DJSRH, UCCH, CIRH, UCMFH, CAGAN, CroVCA)}
