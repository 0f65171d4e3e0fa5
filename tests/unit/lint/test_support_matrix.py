"""The operator table against what is known of the releases by other means."""

import json
from importlib import resources

from onnx import defs

from heartvit_edge.lint.limits import LIMITS
from heartvit_edge.lint.operators import REFUSED, support_matrix
from heartvit_edge.spec.target import TARGETS

TRT = [name for name in TARGETS if name != "onnxruntime"]
SINCE = {"LayerNormalization": 0, "Gelu": 1, "CastLike": 1, "STFT": 2, "Attention": 2, "Swish": 3}
NEVER = ("Bernoulli", "Compress", "Det", "DFT", "QLinearMatMul", "SequenceEmpty", "StringNormalizer", "Unique")
# Operators that ONNX dropped, never had, or has under another domain.
FOREIGN = {"ImageScaler", "ParametricSoftplus", "Scatter", "ScaledTanh", "Upsample"}


def test_a_release_takes_what_an_earlier_one_took():
    for operator, rows in support_matrix().items():
        first = next((place for place, name in enumerate(TRT) if name in rows), len(TRT))
        assert [name for name in TRT if name in rows] == TRT[first:], operator


def test_operators_came_with_the_releases_whose_notes_say_so():
    matrix = support_matrix()
    assert {name: list(matrix[name]) for name in SINCE} == {name: TRT[place:] for name, place in SINCE.items()}
    assert not any(matrix[name] for name in NEVER)


def test_every_operator_is_one_of_onnx():
    known = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""}
    assert {*support_matrix(), *LIMITS, *REFUSED} - known <= FOREIGN


def test_every_release_has_a_source_that_names_a_commit():
    text = resources.files("heartvit_edge.lint").joinpath("operators.json").read_text()
    sources = json.loads(text)["sources"]
    assert list(sources) == TRT
    for source in sources.values():
        commit = source["document"].split("/blob/")[1].split("/")[0]
        assert len(commit) == 40 and int(commit, 16)
        assert source["date"] and source["note"]


def test_limits_of_top_k_are_those_that_the_matrix_states():
    assert "3840" in support_matrix()["TopK"]["trt-10.3"]["limits"]
    assert "limits" not in support_matrix()["TopK"]["trt-8.6"]
