"""The other methods of benchmarks/baselines by their names, in the order of the tables.

    method = METHODS["CCA-ITQ"](bits=64, seed=0)
    method.fit(train.image, train.text)
    codes = metric.sign_codes(method.encode_image(query.image))
"""

from __future__ import annotations

from benchmarks.baselines.base import Baseline
from benchmarks.baselines.cagan import CAGAN
from benchmarks.baselines.crovca import CroVCA
from benchmarks.baselines.deep import CIRH, DJSRH, UCCH
from benchmarks.baselines.shallow import CanonicalITQ, CanonicalLSH, CanonicalSign
from benchmarks.baselines.ucmfh import UCMFH

METHODS: dict[str, type[Baseline]] = {
    method.name: method for method in (
        CanonicalLSH, CanonicalSign, CanonicalITQ, DJSRH, UCCH, CIRH, UCMFH, CAGAN, CroVCA)}
