"""The cost of lifting: the paper's formula by hand, and that all of it is measured."""

from __future__ import annotations

from lift3d_cli.config import EvalConfig
from lift3d_cli.evaluation.cost import Cost, measure_cost
from lift3d_cli.scene.load import load_scene


def test_break_even_is_where_both_take_as_long():
    cost = Cost(encode=2, render=10, lift=0.5, decode=1)
    assert cost.on_frames(100) == 1300
    assert cost.lifted(100, photos=15) == 30 + 1150
    assert cost.break_even(15) == 20
    assert cost.on_frames(20) == cost.lifted(20, 15)
    assert Cost(2, 10, 2, 1).break_even(15) is None


def test_every_part_is_measured(wall_scene, model_ref):
    config = EvalConfig(every=4, height=0, views=2, model=model_ref, variant="training-free")
    got = measure_cost(load_scene(wall_scene), config)
    assert list(got) == ["t_enc", "t_rend", "t_lift", "t_dec", "photos", "break_even"]
    assert got["photos"] == 6
    assert min(got["t_enc"], got["t_rend"], got["t_dec"]) > 0
    even = Cost(got["t_enc"], got["t_rend"], got["t_lift"], got["t_dec"]).break_even(6)
    assert got["break_even"] == even
