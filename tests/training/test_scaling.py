import pytest

from jasper_ray.training.scaling import PARAMETERS, Machine, Work, all_reduce_s, weak_scaling

H200 = Machine(gpus_per_node=8, nvlink_gbyte_per_s=360.0, network_gbyte_per_s=44.0)


def test_one_gpu_alone_is_its_own_measure() -> None:
    assert weak_scaling(Machine(1, 360.0, 44.0), 1, Work(step_s=0.166)).efficiency == 1.0


def test_the_all_reduce_in_a_node_is_the_rings_volume_over_its_speed() -> None:
    assert all_reduce_s(H200, 1, 4 * PARAMETERS) == pytest.approx(2 * 7 / 8 * 4 * PARAMETERS / 360e9)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_efficiency_falls_with_nodes_and_rises_with_the_network(microbatches: int) -> None:
    work = Work(step_s=0.166, microbatches=microbatches)
    over_nodes = [weak_scaling(H200, nodes, work).efficiency for nodes in (1, 2, 4, 8, 16, 64)]
    assert over_nodes == sorted(over_nodes, reverse=True)
    over_networks = [weak_scaling(Machine(8, 360.0, speed), 16, work).efficiency for speed in (11.0, 44.0, 350.0)]
    assert over_networks == sorted(over_networks)


def test_gradients_of_half_the_size_never_scale_worse() -> None:
    for nodes in (1, 2, 8, 64):
        whole, half = (Work(step_s=0.166, gradient_bytes=size * PARAMETERS) for size in (4, 2))
        assert weak_scaling(H200, nodes, half).efficiency >= weak_scaling(H200, nodes, whole).efficiency


def test_an_all_reduce_that_the_backward_hides_costs_its_last_bucket_and_little_else() -> None:
    scaling = weak_scaling(H200, 1, Work(step_s=0.166))
    assert scaling.all_reduce_s < 0.9 * 2 / 3 * 0.166
    assert 0.166 < scaling.step_s < 0.166 + 0.004


def test_stragglers_lengthen_the_step_by_their_share() -> None:
    straight, waiting = (weak_scaling(H200, 4, Work(0.166, straggler_share=share)) for share in (0.0, 0.1))
    assert waiting.step_s - straight.step_s == pytest.approx(0.0166)


def test_figures_of_the_reference_model_are_met() -> None:
    slow = Machine(8, 360.0, 11.0)
    assert weak_scaling(slow, 2, Work(0.166)).efficiency == pytest.approx(0.81, abs=0.01)
    assert weak_scaling(slow, 64, Work(0.166)).efficiency == pytest.approx(0.51, abs=0.01)
