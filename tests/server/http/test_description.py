"""schemathesis sends what the OpenAPI description allows and what it does not, and looks at the answers."""

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import Server

# Not among them: that what the description allows is never refused. It cannot say which SQL is a valid condition.
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@pytest.fixture(scope="session")
def description(server: Server) -> schemathesis.BaseSchema:
    server.add("described", ["bread needs yeast", "glaciers move slowly"], [{"id": "a", "year": 2021}, {"year": 2019}])
    return schemathesis.openapi.from_url(f"{server.url}/api-docs/openapi.json")


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case: schemathesis.Case, server: Server) -> None:
    if "name" in case.path_parameters and case.method != "DELETE":
        case.path_parameters["name"] = "described"
    case.call_and_validate(checks=CHECKS, timeout=60)


def test_the_server_lives_and_said_nothing_wrong(server: Server) -> None:
    assert server.request("GET", "/ready").json() == {"ready": True}
    assert not [line for line in server.log if line.get("status", 0) >= 500 or "traceback" in line]


def test_each_body_of_a_request_has_an_example_that_is_right(server: Server, tmp_path: Path) -> None:
    description = server.request("GET", "/api-docs/openapi.json").json()
    bodies = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for methods in description["paths"].values()
        for operation in methods.values()
        if "requestBody" in operation
    }
    assert len(bodies) == 15
    for body in bodies:
        assert description["components"]["schemas"][body]["examples"], body
