from __future__ import annotations

from heartvit_edge.power.totals import total_rule, with_total
from heartvit_edge.spec.measurement import PowerTrace

AGX = ("VDDQ_VDD2_1V8AO", "VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0")


def test_the_total_of_an_agx_orin_is_the_explicit_sum_of_its_rails():
    rails, rule = total_rule(AGX)
    assert rails == AGX
    assert "VDDQ_VDD2_1V8AO + VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0" in rule


def test_the_input_rail_alone_is_the_total_where_there_is_one():
    assert total_rule(("VDD_IN", "VDD_SOC"))[0] == ("VDD_IN",)
    assert "carrier board" in total_rule(("VDD_IN", "VIN"))[1]


def test_rails_that_are_named_make_up_the_total_and_the_rule_says_so():
    trace = PowerTrace(
        source="ina3221",
        times_s=(0.0, 1.0),
        rails_mw={"A": (1.0, 2.0), "B": (10.0, 20.0)},
        total_rails=("A", "B"),
        total_rule="the sum",
    )
    named = with_total(trace, ("B",))
    assert (named.total_mw(), named.total_rule) == ((10.0, 20.0), "these rails were named: --total-rail")
    assert with_total(trace, ()) == trace
