"""Every member of TensorRT that the package names is used on every release that it claims to support, and known there.

``python tests/contract_mutations.py`` prints the figures of the renaming test.
"""

from __future__ import annotations

import ast

import pytest
from fakes.tensorrt_contract import EVERYWHERE, HANDED_OUT, STRONG, WEAK, check, prepare, renamed, survivors
from fakes.tensorrt_surface import SURFACES, VERSIONS, read_surface

TABLES = (EVERYWHERE, WEAK, STRONG)
OTHERS_NAMES = {"file", "shape"}
"""Attributes in those modules that are of objects of our own, though TensorRT has members of these names."""


@pytest.fixture
def trees(repository):
    """Return the syntax tree of each module of the package that names TensorRT's members, by its path."""
    paths = sorted((repository / "heartvit_edge").rglob("*.py"))
    return {path: ast.parse(text) for path in paths if "tensorrt." in (text := path.read_text()) or "trt." in text}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_claimed_is_used_and_what_is_used_is_known_to_the_release(tmp_path, version):
    check(version, tmp_path, prepare(tmp_path))


def test_what_is_claimed_of_one_kind_of_release_alone_is_not_claimed_of_the_other():
    for name, members in WEAK.items():
        assert set(members).isdisjoint(STRONG.get(name, ()))
        assert set(members).isdisjoint(EVERYWHERE.get(name, ()))


def test_every_class_that_the_package_takes_from_the_module_is_claimed(trees):
    named = {
        node.attr
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt"
    }
    assert named - {"__version__"} == {name for table in TABLES for name in table} - HANDED_OUT


def test_every_member_that_the_package_names_is_claimed_and_every_claimed_one_named(trees):
    known = {member for version in VERSIONS for members in read_surface(version).values() for member in members}
    claims = {member for table in TABLES for members in table.values() for member in members}
    attributes, methods = set(), set()
    for tree in trees.values():
        attributes |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        methods |= {
            method.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("trt.") for base in node.bases)
            for method in node.body
            if isinstance(method, ast.FunctionDef)
        }
    assert (attributes & known) - claims == OTHERS_NAMES
    assert claims <= attributes | methods


@pytest.mark.parametrize("version", VERSIONS)
def test_renaming_any_used_member_of_a_release_is_noticed(tmp_path, version):
    count, unnoticed = survivors(version, tmp_path)
    assert count > 70
    assert unnoticed == []


def test_a_member_that_the_package_does_not_use_can_be_renamed(tmp_path):
    surface = renamed(read_surface("10.3.0"), "IBuilderConfig.max_aux_streams")
    check("10.3.0", tmp_path, prepare(tmp_path), surface)


def test_every_stored_surface_is_claimed():
    assert {path.stem for path in SURFACES.glob("*.json")} == set(VERSIONS)
