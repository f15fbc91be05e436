"""An offer, and what a server is started with; the servers themselves answer in test_serve.py."""

from dataclasses import replace

import pytest

from inference.serving.start import Offer, announce, serving_folder, vllm_arguments


@pytest.fixture
def offer(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("its own")
    return Offer(model, "laptop", "with the prompt", "127.0.0.1", 8000, "a-key-of-some-length")


def test_addresses_of_both_kinds(offer):
    assert offer.url == "http://127.0.0.1:8000/v1"
    assert replace(offer, host="::1").url == "http://[::1]:8000/v1"


def test_vllm_is_told_all_but_the_key(offer, tmp_path):
    arguments = vllm_arguments(offer, tmp_path / "template.jinja")
    assert arguments[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert options == {
        "--model": str(offer.model),
        "--served-model-name": "laptop",
        "--chat-template": str(tmp_path / "template.jinja"),
        "--host": "127.0.0.1",
        "--port": "8000",
    }


def test_the_folder_served_has_the_name_and_another_template(offer):
    with serving_folder(offer) as folder:
        assert folder.name == "laptop"
        assert (folder / "chat_template.jinja").read_text() == "with the prompt"
        assert (folder / "config.json").resolve() == (offer.model / "config.json").resolve()
    assert not folder.exists()
    assert (offer.model / "chat_template.jinja").read_text() == "its own"


def test_the_one_line_on_stdout_says_where_and_for_whom(offer, capsys):
    announce(offer, "vLLM")
    announce(replace(offer, host="192.0.2.1", template=None), "llama.cpp")
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "vLLM: model 'laptop' at http://127.0.0.1:8000/v1, for this machine",
        "llama.cpp: model 'laptop' at http://192.0.2.1:8000/v1, for other machines, with the key",
    ]
    assert "get the one the file's template has for them" in said.err
