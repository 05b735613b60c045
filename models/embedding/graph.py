"""The network as an ONNX graph: BERT's encoder, the mean over all tokens, unit length.

It takes texts of one length (`ids`, [texts, tokens]) and gives `vectors`, [texts, 384]. Nothing is padded, so
there is no mask, and a text has the same vector alone as among others.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.embedding.weights import WIDTH, Weights

LAYERS, HEADS = 6, 12
EPSILON = 1e-12
OPSET = 20


class _Graph:
    """Nodes and constants as they are added."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """A node; the name of its output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> str:
        if all(one.name != name for one in self.constants):
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def dense(self, value: str, name: str) -> str:
        matrix = self.constant(f"{name}.weight.transposed", self._weights[f"{name}.weight"].T)
        return self.add("Add", self.add("MatMul", value, matrix), self.weight(f"{name}.bias"))

    def normalized(self, value: str, name: str) -> str:
        given = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", value, *given, axis=-1, epsilon=EPSILON)


def build(weights: Weights) -> bytes:
    """The graph with its weights, serialized."""
    graph = _Graph(weights)
    value = _embedded(graph)
    for layer in range(LAYERS):
        value = _layer(graph, value, f"encoder.layer.{layer}")
    tokens = graph.constant("axis of tokens", np.array([1], np.int64))
    mean = graph.add("ReduceMean", value, tokens, keepdims=0)
    graph.nodes.append(helper.make_node("LpNormalization", [mean], ["vectors"], axis=-1, p=2))
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"])
    vectors = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", WIDTH])
    made = helper.make_graph(graph.nodes, "all-minilm-l6-v2", [ids], [vectors], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return bytes(model.SerializeToString())


def _embedded(graph: _Graph) -> str:
    words = graph.add("Gather", graph.weight("embeddings.word_embeddings.weight"), "ids")
    zero = graph.constant("zero", np.array([0], np.int64))
    one = graph.constant("one", np.array([1], np.int64))
    two = graph.constant("two", np.array([2], np.int64))
    length = graph.add("Slice", graph.add("Shape", "ids"), one, two, zero)
    places = graph.weight("embeddings.position_embeddings.weight")
    positions = graph.add("Slice", places, zero, length, zero)
    kinds = graph.weight("embeddings.token_type_embeddings.weight")
    kind = graph.add("Slice", kinds, zero, one, zero)
    summed = graph.add("Add", graph.add("Add", words, kind), positions)
    return graph.normalized(summed, "embeddings.LayerNorm")


def _layer(graph: _Graph, value: str, name: str) -> str:
    attention = f"{name}.attention"
    query, key, content = (
        _heads(graph, graph.dense(value, f"{attention}.self.{part}")) for part in ("query", "key", "value")
    )
    scale = graph.constant("scale", np.array(np.sqrt(WIDTH / HEADS), np.float32))
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    shares = graph.add("Softmax", graph.add("Div", scores, scale), axis=-1)
    seen = graph.add("Transpose", graph.add("MatMul", shares, content), perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", seen, graph.constant("joined", np.array([0, 0, WIDTH], np.int64)))
    attended = graph.add("Add", graph.dense(joined, f"{attention}.output.dense"), value)
    value = graph.normalized(attended, f"{attention}.output.LayerNorm")
    inner = graph.add("Gelu", graph.dense(value, f"{name}.intermediate.dense"))
    outer = graph.add("Add", graph.dense(inner, f"{name}.output.dense"), value)
    return graph.normalized(outer, f"{name}.output.LayerNorm")


def _heads(graph: _Graph, value: str) -> str:
    apart = graph.constant("apart", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    return graph.add("Transpose", graph.add("Reshape", value, apart), perm=[0, 2, 1, 3])
