"""Which processes are deployed for what is asked for."""

from cli.jobs import SERVING, job_specs
from core.settings import Settings
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
