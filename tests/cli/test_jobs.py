"""Which processes are deployed for what is asked for."""

from cli.jobs import GATEWAY, PLANNED, SERVING, job_specs, surplus_gateways
from core.settings import Balancer, Gateway, Settings
from pipelines.load import load_plan, load_scoring


def test_models_are_served_directly_where_that_is_asked_for() -> None:
    given = Settings()
    plans = [load_scoring("fraud")]
    assert SERVING not in {spec.name for spec in job_specs(plans, given)}
    (spec,) = [spec for spec in job_specs(plans, given, direct=True) if spec.name == SERVING]
    assert spec.argv[-3:] == ("serving", "--model", "fraud")
    assert spec.probe_port == given.serving.port


def test_direct_serving_goes_on_when_another_pipeline_is_applied() -> None:
    """With the models of those that are deployed already; a pipeline that scores nothing adds none."""
    plans = [load_plan("demand")]
    there = job_specs(plans, Settings(), beside=["fraud"], direct=True)
    assert [spec.argv[-1] for spec in there if spec.name == SERVING] == ["fraud"]
    assert SERVING not in {spec.name for spec in job_specs(plans, Settings(), direct=True)}


def test_one_gateway_has_the_public_port_itself() -> None:
    given = Settings()
    (gateway,) = [spec for spec in job_specs([load_scoring("fraud")], given) if spec.name.startswith(GATEWAY)]
    assert (gateway.name, gateway.probe_port) == (GATEWAY, given.gateway.port)
    assert "MILLSTREAM_GATEWAY__PORT" not in gateway.env


def test_several_gateways_have_ports_of_their_own_and_serve_the_same() -> None:
    given = Settings(
        gateway=Gateway(host="0.0.0.0"), balancer=Balancer(gateways=3, first_port=9001, admin_port=9100)
    )
    specs = job_specs([load_scoring("fraud")], given)
    gateways = {spec.name: spec for spec in specs if spec.name.startswith(GATEWAY)}
    assert list(gateways) == ["gateway", "gateway-2", "gateway-3"]
    assert [spec.probe_port for spec in gateways.values()] == [9001, 9002, 9003]
    for spec in gateways.values():
        env = {"MILLSTREAM_GATEWAY__HOST": "127.0.0.1", "MILLSTREAM_GATEWAY__PORT": str(spec.probe_port)}
        assert env.items() <= spec.env.items()
    assert len({(spec.argv, spec.stage, spec.env[PLANNED]) for spec in gateways.values()}) == 1


def test_gateways_that_are_wanted_no_more_are_named() -> None:
    there = ["gateway", "gateway-2", "gateway-3", "fraud-worker"]
    plans = [load_scoring("fraud")]
    assert surplus_gateways(there, job_specs(plans, Settings())) == ["gateway-2", "gateway-3"]
    two = Settings(balancer=Balancer(gateways=2))
    assert surplus_gateways(there, job_specs(plans, two)) == ["gateway-3"]
