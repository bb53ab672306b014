"""Graph surgery, once per installation, so that ONNX Runtime can fold and batch what it is given."""

from __future__ import annotations

import onnx

from sidecar_faces.errors import ModelError


def free_axes(raw: bytes) -> bytes:
    """An image network with a free batch, height and width, its weights taken off the graph's inputs.

    CenterFace is published with all axes fixed (10x3x32x32), although it is fully convolutional, and with
    its weights listed as inputs, which forbids folding them into constants. Raises ModelError.
    """
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:  # protobuf's own types, which are no part of its interface
        raise ModelError(f"The weights are not an ONNX model ({error}).") from None
    graph = model.graph
    weights = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    for value in graph.input:
        _free(value, "")
    for value in graph.output:
        _free(value, f"_{value.name}")
    del graph.value_info[:]  # shapes inferred for the fixed size
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _free(value: onnx.ValueInfoProto, suffix: str) -> None:
    dimensions = value.type.tensor_type.shape.dim
    dimensions[0].dim_param = "batch"
    dimensions[2].dim_param = f"height{suffix}"
    dimensions[3].dim_param = f"width{suffix}"
