"""What is read from the text of a GPU module; and, where XLA's compiler for a GPU is installed, that a step's launches
and traffic do not grow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_compiler, gpu_plan, hlo
from benchmarks.gpu_compiler import CARDS
from benchmarks.gpu_plan import Form, Work

MODULE = """\
HloModule made_up, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p: f32[4,8], q: f32[8,2]) -> f32[4,2] {
  %p = f32[4,8]{1,0} parameter(0)
  %q = f32[8,2]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,2]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%exact (p: f32[4,8], q: f32[8,2]) -> f32[4,2] {
  %p = f32[4,8]{1,0} parameter(0)
  %q = f32[8,2]{1,0} parameter(1)
  ROOT %dot.2 = f32[4,2]{1,0} dot(%p, %q), lhs_contracting_dims={1}, operand_precision={highest,highest}
}

%inner (c: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %c = (s32[], f32[4,2]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %v = f32[4,2]{1,0} get-tuple-element(%c), index=1
  %small = f32[4,2]{1,0} fusion(%v), kind=kLoop, calls=%add
  ROOT %t = (s32[], f32[4,2]{1,0}) tuple(%i, %small)
}

%step (c: (s32[], f32[4,8], f32[8,2])) -> (s32[], f32[4,8], f32[8,2]) {
  %c = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  %a = f32[4,8]{1,0} get-tuple-element(%c), index=1
  %b = f32[8,2]{1,0} get-tuple-element(%c), index=2
  %product = f32[4,2]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused, metadata={op_name="jit(f)/dot(general)"}
  %conv = (f32[2,6,6,4]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=3x3 pad=1_1x1_1}, feature_group_count=2, \
custom_call_target="__cudnn$convForward"
  %start = (s32[], f32[4,2]{1,0}) tuple(%a, %product)
  %loop = (s32[], f32[4,2]{1,0}) while(%start), condition=%add, body=%inner, \
backend_config={"known_trip_count":{"n":"31"}}
  ROOT %t = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) tuple(%a, %a, %b)
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %d = f64[2]{0} fusion(%p), kind=kLoop, calls=%add
  %start = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) tuple(%p)
  %steps = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) while(%start), condition=%add, body=%step, \
backend_config={"known_trip_count":{"n":"50"}}
  ROOT %r = f32[4,8]{1,0} get-tuple-element(%steps), index=1
}
"""


@pytest.fixture(scope="module")
def module():
    computations, entry = hlo.parse(MODULE)
    return computations, hlo.body(computations, entry)


def test_launches_and_bytes_of_loops_within_loops(module):
    _, entry = module
    (step,) = entry.inner
    (inner,) = step.inner
    assert (entry.launches, step.trips, step.launches, inner.trips, inner.launches) == (1, 50, 2, 31, 1)
    assert inner.moved == 2 * 32  # 4 x 2 floats in, and out
    product, convolution = 128 + 64 + 32, 128 + 64 + 2 * 6 * 6 * 4 * 4
    assert step.moved == product + convolution
    assert step.all_launches == 2 + 31
    assert entry.all_launches == 1 + 50 * 33
    assert entry.moved == 128 + 16


def test_products_types_and_convolutions(module):
    computations, _ = module
    assert [operation.name for operation in hlo.reduced_products(computations)] == ["dot.1", "conv"]
    assert hlo.other_types(computations) == {"f64"}
    assert hlo.convolutions(computations) == [hlo.Convolution("3x3", 2)]


def test_a_plan_is_of_the_loop_that_moves_most():
    card = CARDS["h100"]
    (plan,) = gpu_plan.counted(Work("made up", lambda compiler: None, 2**20, 5e9), MODULE, 3 * 2**20, card)
    assert (plan.launches, plan.least_mib, plan.temporary_mib, plan.gflop) == (33, 1, 3, 5)
    assert plan.grouped == ("3x3 in 2 groups",)
    assert plan.predicted_ms == pytest.approx(33 * 2.5e-3 + 5e12 / card.flops / 0.8)
    assert gpu_plan.line(plan).count(" | ") == len(gpu_plan.HEADINGS) - 1


CHOOSING = MODULE.replace(
    """ENTRY""",
    """%wide (c: (s32[], f32[4,8], f32[8,2])) -> (s32[], f32[4,8], f32[8,2]) {
  %c = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) while(%c), condition=%add, body=%step, \
backend_config={"known_trip_count":{"n":"20"}}
}

%slim (c: (s32[], f32[4,8], f32[8,2])) -> (s32[], f32[4,8], f32[8,2]) {
  %c = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[4,2]{1,0}) while(%c), condition=%add, body=%inner, \
backend_config={"known_trip_count":{"n":"20"}}
}

%segment (c: (s32[], f32[4,8], f32[8,2])) -> (s32[], f32[4,8], f32[8,2]) {
  %c = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  %form = s32[] get-tuple-element(%c), index=0
  ROOT %chosen = (s32[], f32[4,8]{1,0}, f32[8,2]{1,0}) conditional(%form, %c, %c), branch_computations={%wide, %slim}
}

ENTRY""",
).replace('body=%step, backend_config={"known_trip_count":{"n":"50"}}', "body=%segment")
"""The same, whose steps come in segments that choose between two forms."""


def test_every_form_of_a_step_has_a_plan_of_its_own():
    card = CARDS["h100"]
    forms = (Form("4 channels", 5e9), Form("2 channels", 1e9))
    wide, slim = gpu_plan.counted(Work("made up", lambda compiler: None, forms=forms), CHOOSING, 2**20, card)
    assert (wide.what, wide.launches, wide.gflop) == ("made up, 4 channels", 33, 5)
    assert (slim.what, slim.launches, slim.gflop) == ("made up, 2 channels", 1, 1)
    assert slim.moved_mib == 64 / 2**20
    assert wide.moved_mib > slim.moved_mib


def test_bytes_bound_a_step_of_little_arithmetic():
    card = CARDS["rtx4090"]
    assert gpu_plan.seconds(0, 8e9, 1, card) == pytest.approx(8e9 / card.bandwidth / 0.8)


def test_without_the_compiler_one_line_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(gpu_compiler.importlib.util, "find_spec", lambda name: None)
    assert gpu_plan.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("pip install 'fedmi-jax[gpu-plan]'\n")
    assert printed.err.count("\n") == 1


MOST = {"local step, 3 clients": (80, 1450), "average": (20, 60)}
"""Launches and MiB a step; what was reached is in benchmarks/RESULTS.md."""


@pytest.mark.slow
@pytest.mark.skipif(bool(gpu_compiler.why_absent()), reason=str(gpu_compiler.why_absent()))
def test_a_step_does_not_grow():
    """In a process of its own: JAX must be told before it starts."""
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_plan", "--json", "--only", *MOST],
        cwd=Path(__file__).parent.parent, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    plans = {plan["what"]: plan for plan in json.loads(said.stdout.splitlines()[-1])["plans"]}
    assert len(plans) == len(MOST)
    for word, (launches, moved) in MOST.items():
        (plan,) = (plan for what, plan in plans.items() if what.startswith(word))
        assert plan["launches"] <= launches
        assert plan["moved_mib"] <= moved
        assert not plan["reduced_products"]
        assert not plan["other_types"]
        assert all(window.startswith("3x3 ") for window in plan["grouped"])
