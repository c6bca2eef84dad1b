"""Pickles of a few hundred bytes that ask for gigabytes, for endless nesting, or for code: by name, their bytes.

Each is a dict with an image, as a split of a data set has it, written in the pickle machine's own instructions.
"""

from __future__ import annotations

import pickle
import struct

import numpy as np


def of(instructions: bytes, key: bytes = b"image") -> bytes:
    """A pickle of {key: what the instructions leave on the stack}."""
    return b"\x80\x04}\x8c" + bytes([len(key)]) + key + instructions + b"s."


def doubled(times: int, opening: bytes, closing: bytes) -> bytes:
    """A list (or tuple) of twice the same list of twice the same ..., ``times`` deep: 2^times numbers."""
    code = b"K\x01"
    for place in range(times):
        again = b"h" + bytes([place - 1]) if place else code
        code = (code + b"0" if place else b"") + opening + again + again + closing + b"q" + bytes([place])
    return code


def repeated(first: bytes, times: int) -> bytes:
    """A list of the same thing many times."""
    return b"](" + first + b"q\xfe" + b"h\xfe" * times + b"e"


def array_of(count: int) -> bytes:
    """The instructions for an array, without those before and after them."""
    whole = pickle.dumps(np.zeros(count, np.float32), protocol=4)
    return whole[whole.index(b"\x8c"):-1]  # past the protocol and the frame


def nested(opening: bytes, times: int, closing: bytes) -> bytes:
    return opening * times + closing * times


DIGITS = b"1" + b"0" * 20_000

HOSTILE: dict[str, bytes] = {
    **{f"lists of lists, 2^{times} numbers": of(doubled(times, b"](", b"e")) for times in (26, 30, 40, 60)},
    **{f"tuples of tuples, 2^{times} numbers": of(doubled(times, b"(", b"t")) for times in (26, 30, 60)},
    **{f"a row of 1,000 numbers {times:,} times": of(repeated(b"](" + b"K\x01" * 1000 + b"e", times))
       for times in (200_000, 1_000_000)},
    **{f"an array of {count:,} numbers {times:,} times": of(repeated(array_of(count), times))
       for count, times in ((10_000, 50_000), (1_000, 500_000))},
    **{f"a text of {letters:,} letters {times:,} times": of(repeated(b"X" + struct.pack("<I", letters) + b"a" * letters,
                                                                    times), key=b"caption")
       for letters, times in ((100_000, 20_000), (1_000_000, 3_000))},
    **{f"{kind} {times:,} deep": of(code) for times in (40, 5_000, 200_000)
       for kind, code in (("lists", nested(b"]", times, b"a")[:-1]), ("tuples", b")" + b"\x85" * times))},
    **{f"a key of tuples {times:,} deep": b"\x80\x04})" + b"\x85" * times + b"K\x01s."
       for times in (1, 5_000, 1_000_000)},
    "a key of tuples, all keys at once": b"\x80\x04(" + b")" + b"\x85" * 100_000 + b"K\x01d.",
    "a key of tuples, in SETITEMS": b"\x80\x04}()" + b"\x85" * 100_000 + b"K\x01u.",
    "a key of tuples in a dict below": of(b"})" + b"\x85" * 100_000 + b"K\x01s"),
    "a key of 20,000 digits": b"\x80\x04}" + b"\x8b" + struct.pack("<i", 9000) + b"\x7f" * 9000 + b"K\x01s.",
    "a number of 20,000 digits": of(b"L" + DIGITS + b"L\n"),
    "an int of 20,000 digits": of(b"I" + DIGITS + b"\n"),
    "a list for a key": b"\x80\x04}]K\x01s.",
    "a set of tuples": of(b"\x8f(" + b")" + b"\x85" * 100_000 + b"\x90"),
    "a frozen set of tuples": of(b"(" + b")" + b"\x85" * 100_000 + b"\x91"),
    "a list that holds itself": of(b"]\x94h\x00ah\x00a"),
    "a list that holds itself in a list": of(b"]\x94](h\x00h\x00ea"),
    "a frame of 2^62 bytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "bytes, 2^40": of(b"\x8e" + struct.pack("<Q", 1 << 40)),
    "text, 2^40": of(b"\x8d" + struct.pack("<Q", 1 << 40)),
    "text, 2^31": of(b"X" + struct.pack("<I", 1 << 31)),
    **{f"a byte array, 2^{power}": of(b"\x96" + struct.pack("<Q", 1 << power)) for power in (33, 40)},
    "a number of 2^31 bytes": of(b"\x8b" + struct.pack("<i", (1 << 31) - 1)),
    "place 2^31 of the memory": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "place 2^60 of the memory": b"\x80\x04Np1152921504606846976\n.",
    "an array of 2^40 numbers": of(array_of(4).replace(b"K\x04\x85", b"\x8a\x06" + (1 << 40).to_bytes(6, "little")
                                                       + b"\x85")),
    "an array of -1 numbers": of(array_of(4).replace(b"K\x04\x85", b"J\xfe\xff\xff\xff\x85")),
    "attributes of a function": b"cnumpy\ndtype\n(N(dS'__defaults__'\n(I1\nI2\nI3\ntsS'__kwdefaults__'\n(dstb.",
    "attributes of a dict": b"\x80\x04}}\x8c\x01aK\x01sb.",
    "a call of a dict": b"\x80\x04})R.",
    "a call of a text": b"\x80\x04\x8c\x01a)R.",
    "an object without arguments": b"cnumpy\ndtype\n)\x81.",
    "an object of the oldest kind": b"(inumpy\ndtype\n.",
    "a persistent object": b"Pid\n.",
    "an extension": b"\x80\x04\x82\x01.",
    "an out-of-band buffer": of(b"\x97"),
    "no instruction": b"",
    "only an end": b".",
    "an end too much": b"\x80\x0400.",
    "no end": b"\x80\x04}",
    "an unknown instruction": b"\x80\x04\xff.",
    "protocol 255": b"\x80\xff}.",
    "an array in an array's place": of(array_of(4).replace(b"K\x04\x85", b"](" + b"h\x00" * 5 + b"e")),
    **{f"an array of shape {what}": of(array_of(4).replace(b"K\x04\x85", shape)) for what, shape in (
        ("text", b"\x8c\x014\x85"), ("1.5", b"G\x3f\xf8" + bytes(6) + b"\x85"),
        ("None", b"N"),
        ("2^62 x 4", b"\x8a\x08" + (1 << 62).to_bytes(8, "little") + b"K\x04\x86"),
        ("0 x 2^62", b"K\x00\x8a\x08" + (1 << 62).to_bytes(8, "little") + b"\x86"),
        ("33 axes", b"(" + b"K\x01" * 33 + b"t"),
        ("100,000 axes", b"(" + b"K\x01" * 100_000 + b"t"), ("itself", b"h\x00"))},
    **{f"an array of type {kind!r}": of(array_of(4).replace(b"\x8c\x02f4", b"\x8c" + bytes([len(kind)])
                                                           + kind.encode()))
       for kind in ("O8", "V8", "M8", "m8", "U999999", "S999999", "f4,f4", "O", "b0", "c16", "f9", "(9,9)f4", "",
                    ">f4")},
    "an array of a number for a type": of(array_of(4).replace(b"\x8c\x02f4", b"K\x04")),
    "a text that is no UTF-8": of(b"X" + struct.pack("<I", 2) + b"\xff\xfe"),
    "a short text without an end": of(b"S'no end\n"),
    "a float of letters": of(b"Fnan(1)x\n"),
    "half a million marks": b"\x80\x04}" + b"(" * 500_000 + b".",
    "a mark too few": b"\x80\x04}u.",
    "a place that was never filled": of(b"h\x63"),
    "frames within frames": b"\x80\x04" + b"\x95" + struct.pack("<Q", 30) + b"\x95" + struct.pack("<Q", 9) + bytes(30),
    "a frame cut short": b"\x80\x04\x95" + struct.pack("<Q", 100) + b"}.",
    "a second pickle": b"\x80\x04\x8c\x01a." + b"\x80\x04}.",
    "a text for a dict": b"\x80\x04\x8c\x01a.",
    "a list for a dict": b"\x80\x04](K\x01K\x02e.",
    "an append to a text": of(b"\x8c\x01aK\x01a"),
    "an append to an array": of(array_of(4) + b"K\x01a"),
    "an entry put into an array": of(array_of(4) + b"K\x00K\x01s"),
    "a state of a state": of(array_of(4) + b"Nb"),
    "a call of the class of arrays": of(b"cnumpy\nndarray\n(I1000000000\ntR"),
    "a function for a key": b"\x80\x04}cnumpy\ndtype\nK\x01s.",
    "a byte order of a list": of(b"cnumpy\ndtype\n(S'f4'\ntR(I3\n](K\x01eNNNI-1\nI-1\nI0\ntb"),
    "code: os.system": b"cposix\nsystem\n(S'touch %s'\ntR.",
    "code: builtins.eval": b"cbuiltins\neval\n(S'open(\"%s\", \"w\")'\ntR.",
    "code: builtins.exec, deep": of(b"](cbuiltins\nexec\n(S'open(\"%s\", \"w\")'\ntRe"),
    "code: builtins.__import__": b"cbuiltins\n__import__\n(S'os'\ntR.",
    "code: numpy.load": b"cnumpy\nload\n(S'x'\ntR.",
    "code: numpy.dtype of objects": of(b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"),
    "code: torch": b"ctorch._utils\n_rebuild_tensor_v2\n.",
    "code: a module's attribute": b"\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.",
    "code: os.popen by a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93\x8c\x08touch %s\x85R.",
    "code: subprocess": b"csubprocess\ncall\n((lp0\nS'touch'\naS'%s'\natR.",
    "code: numpy's f2py": b"cnumpy.f2py.crackfortran\nmyeval\n(S'open(\"%s\", \"w\")'\ntR.",
    "code: numpy's test runner": b"cnumpy.testing._private.utils\nrunstring\n(S'open(\"%s\", \"w\")'\n(dtR.",
    "code: operator.attrgetter": b"coperator\nattrgetter\n(S'system'\ntR.",
    "code: functools.partial": b"cfunctools\npartial\n(cos\nsystem\nS'touch %s'\ntR(tR.",
    "code: joblib": b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81.",
    "code: pandas": b"cpandas\nread_pickle\n(S'%s'\ntR.",
    "code: a pickle in a pickle": b"cpickle\nloads\n(Ccposix\nsystem\n(S'touch %s'\ntR.\ntR.",
    "code: another codec": of(b"c_codecs\nencode\n(X" + struct.pack("<I", 1) + b"aS'zlib_codec'\ntR"),
}
