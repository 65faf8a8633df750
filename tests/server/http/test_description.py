"""schemathesis sends what the OpenAPI description allows and what it does not, and looks at the answers."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Server

from colbertz.server import hit_schemas, schemas

# Not among them: that what the description allows is never refused. It cannot say which SQL is a valid condition.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_described(server: Server, mode: GenerationMode) -> None:
    """Each route is sent requests that fit its description, or requests that do not."""
    name = f"described-{mode.value}"
    server.add(name, ["bread needs yeast", "glaciers move slowly"], [{"id": "a", "year": 2021}, {"year": 2019}])
    schema = schemathesis.openapi.from_url(f"{server.url}/api-docs/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 33
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.path in ("/indices", "/health", "/ready", "/metrics"):
            continue  # without parameters nothing can be wrong, but for the body of POST /indices

        @settings(
            max_examples=10,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            drops_the_index = (case.method, case.path) == ("DELETE", "/indices/{name}")
            if mode is GenerationMode.POSITIVE and "name" in case.path_parameters and not drops_the_index:
                case.path_parameters["name"] = name
            case.call_and_validate(checks=CHECKS, timeout=60)

        ask()


def test_the_server_lives_and_said_nothing_wrong(server: Server) -> None:
    assert server.request("GET", "/ready").json() == {"ready": True}
    assert not [line for line in server.log if line.get("status", 0) >= 500 or "traceback" in line]


def test_each_body_of_a_request_has_an_example_that_is_right(server: Server) -> None:
    description = server.request("GET", "/api-docs/openapi.json").json()
    bodies = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for methods in description["paths"].values()
        for operation in methods.values()
        if "requestBody" in operation
    }
    assert len(bodies) == 20
    for body in bodies:
        examples = description["components"]["schemas"][body]["examples"]
        assert examples
        for example in examples:
            (getattr(schemas, body, None) or getattr(hit_schemas, body)).model_validate(example)
