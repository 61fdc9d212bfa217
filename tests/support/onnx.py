"""ONNX files by hand, so that no package is needed to write them."""

import numpy as np


def field(number, content):
    """A field of a protocol buffer message: an integer, or bytes."""
    key = lambda kind: _varint(number << 3 | kind)  # noqa: E731
    if isinstance(content, int):
        return key(0) + _varint(content)
    content = content.encode() if isinstance(content, str) else content
    return key(2) + _varint(len(content)) + content


def _varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _value(name, shape):
    sizes = b"".join(field(1, field(2, "N") if size is None else field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, sizes)))


def stripes_model(shape=(None, 3, 64, 32), seed=0, width=5, **metadata):
    """A random ReID model: means over halves of the height (a convolution of that size), then a linear map."""
    rng = np.random.default_rng(seed)
    height, columns = shape[2] or 64, shape[3] or 32
    kernel = rng.standard_normal((width, 3, height, columns)).astype(np.float32) / (height * columns)
    weights = (
        b"".join(field(1, size) for size in kernel.shape) + field(2, 1) + field(8, "w") + field(9, kernel.tobytes())
    )
    nodes = [
        field(1, "pictures") + field(1, "w") + field(2, "maps") + field(4, "Conv"),
        field(1, "maps") + field(2, "features") + field(4, "Flatten"),
    ]
    graph = b"".join(field(1, node) for node in nodes) + field(2, "g") + field(5, weights)
    graph += field(11, _value("pictures", shape)) + field(12, _value("features", (shape[0], width)))
    notes = b"".join(field(14, field(1, name) + field(2, text)) for name, text in metadata.items())
    return field(1, 8) + field(7, graph) + field(8, field(2, 13)) + notes, kernel


def graph_model(*nodes, shape=(None, 3, 64, 32), **more):
    """A model of nodes (operation, names of inputs, name of the output, attributes); `more` are inputs with shapes."""
    graph = field(2, "g")
    for operation, inputs, output, *attributes in nodes:
        node = b"".join(field(1, name) for name in inputs.split()) + field(2, output) + field(4, operation)
        for name, number in dict(*attributes).items():
            node += field(5, field(1, name) + field(3, number) + field(20, 2))
        graph += field(1, node)
    graph += field(11, _value("pictures", shape)) + b"".join(field(11, _value(*each)) for each in more.items())
    graph += field(12, field(1, "features") + field(2, field(1, field(1, 1))))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))
