"""Secrets in every spelling that we know of are hidden, and ordinary words are left as they are."""

import pytest

from ray_distill.masking import HIDDEN, mask, mask_tree

S = "ter2x"
"""A part of each planted secret."""
SPELLINGS = [
    "postgresql://ann:hun/ter2x@db:5432/mlflow",
    "postgresql://ann:hu?n/ter2x@db:5432/mlflow",
    "postgresql://ann:hu#ter2x@db/mlflow",
    "postgres://ann:12/ter2x@db:5432",
    "https://ann:p@ter2x/w@host/x",
    "mongodb+srv://ann:ter2x@c.mongodb.net/?retryWrites=true",
    "redis://:ter2x@host:6379/0",
    "proxy http://ann:ter2x@proxy:3128: refused",
    '{"a":"http://x:ter2x@h","b":"http://z:ter2x@k"}',
    "https://ghp_ter2xabcdefghijklmnopqrstuvwx@github.com/a",
    "https://sk_live_ter2xabcdefghijklmn:@api.stripe.com",
    "https://ter2xabcdefghi12345:x-oauth-basic@github.com/x",
    "password=hunter2x",
    "password='hun ter2x'",
    "password=hun\\ter2x",
    "password=>ter2x",
    '{"password":"hunter2x","b":1}',
    '{\\"password\\": \\"hunter2x\\"}',
    "passwd: hunter2x",
    "Server=x;Uid=ann;Pwd=hunter2x;Port=1",
    "PGPASSWORD=hunter2x psql",
    "MYSQL_PWD=hunter2x",
    "AccountName=a;AccountKey=abter2x+/c==;EndpointSuffix=core.windows.net",
    "https://a.blob.core.windows.net/c/v.mp4?sv=2022&se=2026&sig=abter2x%3D",
    "https://h/x?AWSAccessKeyId=AK&Signature=ter2x%2B&Expires=17",
    "https://h/x?GoogleAccessId=a&Expires=1&Signature=ter2x",
    "https://h/x?X-Amz-Security-Token=ter2x&X-Amz-Signature=ter2x",
    "https://h/x?X-Goog-Credential=ter2x%2F2026&X-Goog-Signature=ter2x",
    "https://h/x?url=https%3A%2F%2Fk%3Fa%3D1%26X-Amz-Signature%3Dter2x",
    "https://h/x?a=1\\u0026X-Amz-Signature=ter2x\\u0026b=2",
    "https://h/x#access_token=ter2x",
    "jdbc:postgresql://db/x?user=ann&password=ter2x&ssl=true",
    "Authorization: Bearer ter2x",
    "{'Authorization': 'Bearer ter2x'}",
    'curl -H "authorization: token ter2x"',
    "Authorization: Basic ter2x==",
    "Bearer ter2x.abc",
    "AWS4-HMAC-SHA256 Credential=x/2026, Signature=fe5f80f77d5fter2x9824",
    "api_key=ter2x",
    'apiKey: "ter2x"',
    "x-api-key: ter2x9",
    "clientSecret: ter2x",
    "AWS_SECRET_ACCESS_KEY=ter2x/abc+x",
    "token=ter2x",
    "token: ter2x99",
    "aws_session_token = ter2x",
    "SharedAccessSignature=sv=2&sig=ter2x",
    "connection_string='Endpoint=sb://x/;SharedAccessKey=ter2x='",
    "--password ter2x",
    "hf_ter2xabcdefghijklmnopqrst",
    "eyJhbGciOiJI.eyJzdWIiOiIxter2x.SflKxwRJter2x",
    "https://hooks.slack.com/services/T0/B0/ter2x",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIter2x\n-----END RSA PRIVATE KEY-----",
]
WORDS = [
    "tokenizer/config.json",
    "max_tokens=512, token_count=17",
    "pad_token=<pad> eos_token: </s>",
    "token: 512",
    "a monkey beside a turkey: roast",
    "https://h/x?keyframe=12&tokenizer=umt5&sort_key=name",
    "overrides are written key=value, for example train.steps=100",
    "sigma=0.975 sig_max: 3 sig=0.5",
    "the secretary's password was forgotten",
    "the secret: patience",
    "the bearer of news, a standard Bearer walking",
    "Bearer tokens are refused; basic information",
    "compass=north bypass=true pass=2",
    "ssh://git@github.com/x",
    "http://localhost:5000/a@b",
    "http://127.0.0.1:5000 sqlite:////home/ann:x/a@b/mlflow.db",
    "https://host/@scope/pkg and hdfs://hadoop@namenode:9000/a",
    "abfs://training-videos-2026@account.dfs.core.windows.net/x",
    "PWD=/home/ann OLDPWD=/x",
    "model.api_key: unknown key (command line); did you mean 'path'?",
    "data.password: required, and not set",
    "signature=(a, b), a signature move",
    "author=ann authority=x design=flat",
    "12:30//ann and:more, user@host:/a/b",
    "passport=blue passwordless=true password-protected: yes",
    "s3://bucket/token=x/part.parquet gs://bucket/a:b@c",
    "http://mlflow:5000/#/experiments/1",
    "expires=17 keyboard=us",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_a_secret_is_hidden(text: str) -> None:
    shown = mask(text)
    assert S not in shown and HIDDEN in shown
    assert mask(shown) == shown
    for tree in ({"a": [text, 3]}, {"a": {"b": text}}, {text: 1}):
        assert S not in str(mask_tree(tree))
    traceback = f'  File "x.py", line 3, in f\n    open(...)\nOSError: {text}\nnext line'
    assert S not in mask(traceback) and mask(traceback).endswith("\nnext line")


@pytest.mark.parametrize("text", WORDS)
def test_an_ordinary_word_is_left(text: str) -> None:
    assert mask(text) == text
    assert mask_tree({"a": text}) == {"a": text}


def test_what_stands_beside_a_secret_is_left() -> None:
    assert mask("https://h/x?a=1&sig=abc&b=2, tried twice") == "https://h/x?a=1&sig=***&b=2, tried twice"
    assert mask("see https://ann:pw@h/x?sig=abc: cannot be read") == "see https://ann:***@h/x?sig=***: cannot be read"


def test_what_a_key_with_a_secrets_name_holds_is_hidden() -> None:
    tree = {
        "token": "abc",
        "hf_token": "abc",
        "pad_token": "<pad>",
        "password": "",
        "tokens": "abc",
        "n": {"secret": "a"},
    }
    shown = {"token": HIDDEN, "hf_token": HIDDEN, "pad_token": "<pad>", "password": "", "tokens": "abc"}
    assert mask_tree(tree) == {**shown, "n": {"secret": HIDDEN}}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "HF_TOKEN": "hf_planted",
        "MLFLOW_TRACKING_PASSWORD": "planted-2",
        "AWS_SECRET_ACCESS_KEY": "planted/3",
        "DB_PASSWORD": "p w@x/y9",
        "RUN_TOKEN": "0123abcd4567ef89",
        "JUPYTER_TOKEN": "digits_teacher",
        "MYSQL_PWD": "quickstart",
        "SOME_TOKEN": "abc",  # too short to tell from a word
        "MY_TOKEN_FILE": "secret-file1",  # names no secret
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("401 for hf_planted, planted-2 and planted/3 of abc", "401 for ***, *** and *** of abc"),
        ("denied: 'planted-2'. (planted-2) x=planted-2\\nplanted-2", "denied: '***'. (***) x=***\\n***"),
        ("p w@x/y9 and p%20w%40x%2Fy9.", "*** and ***."),
        ("https://h/0123abcd4567ef89/x", "https://h/***/x"),
        ("secret-file1", "secret-file1"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_the_environments_secrets_are_hidden_where_they_stand_alone(text: str, shown: str) -> None:
    assert mask(text) == shown == mask(shown)


@pytest.mark.parametrize(
    "text",
    [
        "/runs/examples/digits_teacher/vae",
        "examples/digits_teacher: no such folder",
        "digits_teacher.yaml, my_digits_teacher, digits_teacher-2",
        "/a/0123abcd4567ef89/b and run_0123abcd4567ef89",
        "output/planted-2/step_3, planted-2.yaml, planted-25",
        "digits_teacher is already trained",
        "quickstart",
    ],
)
@pytest.mark.usefixtures("environment")
def test_a_path_or_word_that_equals_a_variable_is_left(text: str) -> None:
    assert mask(text) == text


@pytest.mark.usefixtures("environment")
def test_a_configurations_names_are_left() -> None:
    tree = {"name": "quickstart", "experiment": "planted-2", "path": "digits_teacher"}
    assert mask_tree(tree) == tree
    assert mask_tree({"prompt": "0123abcd4567ef89"}) == {"prompt": HIDDEN}
