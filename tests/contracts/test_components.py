"""What every component file must be."""

import dataclasses
import inspect

import pytest

from ddspo import catalogue, components
from ddspo.backbones.base import Backbone
from ddspo.detectors.base import Detector
from ddspo.errors import InputError
from ddspo.metrics.base import Metric, SetMetric
from ddspo.objectives.base import Objective

ALL = [(kind, name) for kind in components.KINDS if kind not in (Metric, SetMetric) for name in components.names(kind)]
OPTIONS = {
    "metrics/geneval": {"detector": "scenes"},
    "metrics/compbench_spatial": {"detector": "scenes"},
    "metrics/confident": {"detector": "scenes"},
    "metrics/latent_distance": {"model": "some/model"},
    "metrics/latent_diversity": {"model": "some/model"},
    "degradations/llm": {"model": "some/model"},
}


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[f"{components.KINDS[kind]}/{name}" for kind, name in ALL])
def test_a_component_is_a_documented_file(kind: type, name: str) -> None:
    cls = components.find(kind, name)
    assert components.name_of(cls) == name
    assert len(catalogue.first_line(components.KINDS[kind], name)) > 20
    assert inspect.getdoc(cls)
    if kind is not Backbone:
        assert cls.__dataclass_params__.frozen
        assert all(components.docs(cls).values()), "every option says what it means"
        built = components.construct(kind, {name: OPTIONS.get(f"{components.KINDS[kind]}/{name}", {})}, "here")
        assert components.construct(kind, components.plain(built), "here") == built


def test_every_kind_is_listed() -> None:
    assert catalogue.kinds() == sorted(set(components.KINDS.values()))
    for kind, folder in components.KINDS.items():
        assert kind.__module__ == f"ddspo.{folder}.base"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Objective, "logistik", "here: no 'logistik' in objectives: did you mean logistic?"),
        (Objective, {"logistic": {"betta": 1}}, "here.logistic.betta: no such key: did you mean beta?"),
        (Objective, {"logistic": {"beta": "much"}}, "here.logistic.beta: 'much': input should be a valid number"),
        (Objective, {"logistic": {"beta": 0}}, "here.logistic.beta: 0: input should be greater than 0"),
        (Objective, {"logistic": {}, "other": {}}, "here: give one name"),
        (Metric, "geneval", "here.geneval.detector: missing: who reads the images"),
        (Detector, 3, "here: give one name"),
    ],
)
def test_mistakes_get_one_line(kind: type, value: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        components.construct(kind, value, "here")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_text_that_yaml_took_for_text_is_still_a_number() -> None:
    """YAML 1.1 reads 1e-8 as text; the type makes it a number."""
    built = components.construct(Objective, {"logistic": {"beta": "1e-8"}}, "here")
    assert dataclasses.asdict(built) == {"beta": 1e-8}
