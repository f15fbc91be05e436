"""Errors keep their status and say what to do."""

import json

import pytest

from deploy.kube.refusals import explain_status


@pytest.mark.parametrize(
    ("status", "message", "exit_code", "remedy"),
    [
        (401, "Unauthorized", 11, "oc login"),
        (403, 'User "u" cannot create resource "pods"', 11, "role `edit`"),
        (403, 'pods "a" is forbidden: exceeded quota: gpus', 16, "ask for more quota"),
        (403, 'admission webhook "v" denied the request', 16, "change the profile"),
        (404, "not found", 12, "preflight"),
        (400, 'container "pytorch" in pod "a" is waiting to start: ErrImagePull', 12, "what it waits for"),
        (409, "already exists", 13, "`delete` removes it"),
        (422, "spec.x: unknown field", 16, "change the profile"),
        (503, "unavailable", 10, "Try again"),
    ],
)
def test_each_refusal_keeps_its_status_and_has_a_remedy(status, message, exit_code, remedy):
    error = explain_status(status, json.dumps({"kind": "Status", "message": message}).encode(), "GET /x")
    assert (error.status, error.exit_code) == (status, exit_code)
    assert message in str(error)
    assert remedy in error.remedy


def test_a_body_that_is_no_status_is_shown_as_it_is():
    assert "a proxy says no" in str(explain_status(502, b"a proxy\nsays no", "GET /x"))
    assert "GET /x" in str(explain_status(404, b"", "GET /x"))
