"""How the data sets that are measured on are made: a file for each kind of source.

Each maker writes the data set ``out`` of a source: of the file ``archive``, or, if that is None, of one that it fetches
or that is installed. It raises :class:`~common.errors.InputError` if the source is missing, damaged or another one.
Pictures and texts are encoded in double precision, so that every processor makes the same file.
"""

ENCODERS = ("packaged:float64",)
