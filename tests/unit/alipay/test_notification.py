"""A body is understood whole, or refused for one reason."""

import json

import pytest
from hypothesis import given, strategies as st

from app.alipay.notification import MalformedNotificationError, Notification, NotificationType, parse
from app.secret import Secret
from tests.builders import SUCCESS, a_body

AUTHCODE = {"authorizationNotifyType": "AUTHCODE_CREATED", "authState": "s-1", "authCode": "c-1", "accessToken": ...}
TOKEN = {"authorizationNotifyType": "TOKEN_CREATED", "authState": "s-1", "accessToken": "t-1"}


def test_authcode_created_is_known_by_state_and_code() -> None:
    assert parse(a_body(**AUTHCODE)) == Notification(
        type="AUTHCODE_CREATED", result_status="S", auth_state="s-1", auth_code=Secret("c-1")
    )


def test_token_created_is_known_by_state_and_token() -> None:
    assert parse(a_body(**TOKEN)) == Notification(
        type="TOKEN_CREATED", result_status="S", auth_state="s-1", access_token=Secret("t-1")
    )


def test_token_canceled_is_known_by_token_alone() -> None:
    assert parse(a_body(accessToken="t-1")) == Notification(
        type="TOKEN_CANCELED", result_status="S", access_token=Secret("t-1")
    )


def test_state_and_code_sent_along_with_a_cancellation_are_not_looked_at() -> None:
    assert parse(a_body(authState=7, authCode="c-1")) == parse(a_body())


def test_token_sent_along_with_a_code_is_not_looked_at() -> None:
    assert parse(a_body(**AUTHCODE | {"accessToken": "t-1"})) == parse(a_body(**AUTHCODE))


def test_user_is_read_and_the_login_id_is_kept_secret() -> None:
    notification = parse(a_body(userId="2088", userLoginId="+49 151"))
    assert notification.user_id == "2088"
    assert notification.user_login_id == Secret("+49 151")
    assert "+49 151" not in repr(notification)


@pytest.mark.parametrize("field", ["userId", "userLoginId"])
@pytest.mark.parametrize(
    "value", [None, "", 7, True, [], {}, "x" * 65], ids=["null", "empty", "number", "true", "list", "object", "long"]
)
def test_bad_optional_field_is_the_same_as_absent(field: str, value: object) -> None:
    assert parse(a_body(**{field: value})) == parse(a_body())


@pytest.mark.parametrize("field", ["reason", "authClientId", "passThroughInfo", "extendInfo"])
def test_field_that_moves_nothing_may_be_anything(field: str) -> None:
    assert parse(a_body(**{field: ["x" * 10_000, {}]})) == parse(a_body())


def test_type_that_is_not_known_yet_is_kept_without_keys() -> None:
    notification = parse(a_body(authorizationNotifyType="TOKEN_FROZEN", authState="s-1"))
    assert notification == Notification(type="TOKEN_FROZEN", result_status="S")
    assert type(notification.type) is str


@pytest.mark.parametrize("known", NotificationType)
def test_documented_types_are_known(known: NotificationType) -> None:
    assert parse(a_body(**AUTHCODE | TOKEN | {"authorizationNotifyType": known})).type is known


@pytest.mark.parametrize("status", ["F", "U", "X"])
def test_any_result_status_is_understood(status: str) -> None:
    assert parse(a_body(result={"resultStatus": status})).result_status == status


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b"", "body", "not JSON"),
        (b"\xff{}", "body", "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "body", "not UTF-8"),
        (a_body().decode().encode("utf-16"), "body", "not UTF-8"),
        (b"\xef\xbb\xbf" * 2 + a_body(), "body", "not JSON"),
        (a_body() + b"x", "body", "not JSON"),
        (a_body()[:-1], "body", "not JSON"),
        (b'{"a": NaN}', "body", "not JSON"),
        (b'{"a": -Infinity}', "body", "not JSON"),
        (b'{"a": "\n"}', "body", "not JSON"),
        (b"[" * 60_000, "body", "nested deeper than 64 levels"),
        (b'{"a":' * 10_000, "body", "nested deeper than 64 levels"),
        (b"[]", "body", "not an object"),
        (b"null", "body", "not an object"),
        (b'"TOKEN_CANCELED"', "body", "not an object"),
        (b"9" * 5_000, "body", "not an object"),
        (a_body(result=...), "result", "missing"),
        (a_body(result=None), "result", "missing"),
        (a_body(result="S"), "result", "not an object"),
        (a_body(result=[]), "result", "not an object"),
        (a_body(result={}), "resultStatus", "missing"),
        (a_body(result={"resultStatus": ""}), "resultStatus", "empty"),
        (a_body(result={"resultStatus": True}), "resultStatus", "not a string"),
        (a_body(result={"resultStatus": "S" * 65}), "resultStatus", "longer than 64 characters"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_body_that_is_not_understood_is_malformed_for_one_reason(body: bytes, field: str, rule: str) -> None:
    with pytest.raises(MalformedNotificationError) as refusal:
        parse(body)
    assert (refusal.value.field, refusal.value.rule) == (field, rule)
    assert str(refusal.value) == f"{field} is {rule}"


#: What each type cannot do without, and its documented maximum.
REQUIRED = [
    pytest.param(AUTHCODE, "authorizationNotifyType", 32, id="type"),
    pytest.param(AUTHCODE, "authState", 256, id="state of a code"),
    pytest.param(AUTHCODE, "authCode", 128, id="code"),
    pytest.param(TOKEN, "authState", 256, id="state of a token"),
    pytest.param(TOKEN, "accessToken", 128, id="token created"),
    pytest.param({}, "accessToken", 128, id="token canceled"),
]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        pytest.param(..., "missing", id="absent"),
        pytest.param(None, "missing", id="null"),
        pytest.param("", "empty", id="empty"),
        pytest.param(7, "not a string", id="integer"),
        pytest.param(1.5, "not a string", id="float"),
        pytest.param(True, "not a string", id="true"),
        pytest.param(["x"], "not a string", id="list"),
        pytest.param({"x": "y"}, "not a string", id="object"),
        pytest.param("x" * 257, "longer than", id="long"),
    ],
)
@pytest.mark.parametrize(("fields", "name", "characters_max"), REQUIRED)
def test_required_field_must_be_a_string_within_its_bound(
    fields: dict[str, object], name: str, characters_max: int, value: object, rule: str
) -> None:
    if rule == "longer than":
        rule = f"longer than {characters_max} characters"
    with pytest.raises(MalformedNotificationError) as refusal:
        parse(a_body(**fields | {name: value}))
    assert (refusal.value.field, refusal.value.rule) == (name, rule)


@pytest.mark.parametrize(("fields", "name", "characters_max"), REQUIRED)
def test_required_field_may_be_as_long_as_documented_and_not_a_character_longer(
    fields: dict[str, object], name: str, characters_max: int
) -> None:
    parse(a_body(**fields | {name: "é" * characters_max}))
    with pytest.raises(MalformedNotificationError, match=f"{name} is longer than {characters_max} characters"):
        parse(a_body(**fields | {name: "é" * (characters_max + 1)}))


def test_token_that_is_a_number_is_no_token_however_long_it_is() -> None:
    with pytest.raises(MalformedNotificationError, match="accessToken is not a string"):
        parse(a_body(accessToken="LONG").replace(b'"LONG"', b"9" * 5_000))


def test_refusal_never_shows_the_value() -> None:
    with pytest.raises(MalformedNotificationError) as refusal:
        parse(a_body(accessToken="281001" * 100))
    assert "281001" not in f"{refusal.value!r} {refusal.value} {vars(refusal.value)}"


def test_sample_of_the_official_guide_with_blanks_in_its_keys_is_malformed() -> None:
    sample = {
        "authorizationNotifyType ": "AUTHCODE_CREATED ",
        "authState ": "489767958497 ",
        "authCode ": "28100113_1631148338197000019ba74 ",
        "resultInfo": SUCCESS,
    }
    with pytest.raises(MalformedNotificationError, match="authorizationNotifyType is missing"):
        parse(json.dumps(sample).encode())


def test_byte_order_mark_before_the_json_is_passed_over() -> None:
    assert parse(b"\xef\xbb\xbf" + a_body()) == parse(a_body())


def test_notification_of_another_family_is_malformed_and_named() -> None:
    body = json.dumps({"notifyType": "PAYMENT_RESULT", "paymentId": "p-1", "result": SUCCESS}).encode()
    with pytest.raises(
        MalformedNotificationError, match=r"missing, but notifyType is PAYMENT_RESULT: .* another family"
    ):
        parse(body)


@pytest.mark.parametrize("value", ["28100103_2021", "payment result", "X" * 65, 7, ["PAYMENT_RESULT"]])
def test_notify_type_that_is_no_name_of_a_type_is_not_repeated(value: object) -> None:
    with pytest.raises(MalformedNotificationError) as refusal:
        parse(a_body(authorizationNotifyType="", notifyType=value))
    assert refusal.value.rule.startswith("missing, but there is a notifyType: ")


@pytest.mark.parametrize("value", [None, "", "PAYMENT_RESULT"])
def test_notify_type_beside_our_own_type_does_not_matter(value: object) -> None:
    assert parse(a_body(notifyType=value)) == parse(a_body())


def test_nothing_is_trimmed() -> None:
    notification = parse(a_body(**TOKEN | {"authState": " s-1\t", "accessToken": " t-1 "}))
    assert (notification.auth_state, notification.access_token) == (" s-1\t", Secret(" t-1 "))


def test_type_with_a_trailing_blank_is_another_type() -> None:
    assert type(parse(a_body(authorizationNotifyType="TOKEN_CANCELED ")).type) is str


def test_control_characters_and_lone_surrogates_come_through() -> None:
    assert parse(a_body(**TOKEN | {"authState": "a\u0000\ud800"})).auth_state == "a\u0000\ud800"


def test_escaped_and_plain_spellings_are_the_same() -> None:
    plain = b'{"authorizationNotifyType":"TOKEN_CANCELED","accessToken":"28/1","result":{"resultStatus":"S"}}'
    assert parse(plain.replace(b"28/1", b"\\u0032\\u0038\\/1")) == parse(plain)


def test_last_of_two_values_for_one_key_counts() -> None:
    assert parse(a_body(accessToken="t-1")[:-1] + b', "accessToken": "t-2"}').access_token == Secret("t-2")


def test_number_of_any_length_in_a_field_that_moves_nothing_loses_no_cancellation() -> None:
    assert parse(a_body()[:-1] + b', "extra": ' + b"9" * 5_000 + b"}") == parse(a_body())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
NEARLY_A_NOTIFICATION = st.fixed_dictionaries(
    {},
    optional={
        "authorizationNotifyType": st.sampled_from(NotificationType) | JSON,
        "authState": JSON,
        "authCode": JSON,
        "accessToken": JSON,
        "result": st.fixed_dictionaries({}, optional={"resultStatus": JSON}) | JSON,
        "userId": JSON,
        "userLoginId": JSON,
    },
)


@given(
    st.binary()
    | st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))
    | JSON.map(lambda value: json.dumps(value).encode())
    | NEARLY_A_NOTIFICATION.map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_notification_or_malformed(body: bytes) -> None:
    try:
        notification = parse(body)
    except MalformedNotificationError:
        return
    assert notification.type
    assert notification.result_status


@given(token=st.text(min_size=1, max_size=128), state=st.text(min_size=1, max_size=256), ascii_only=st.booleans())
def test_every_text_within_its_bounds_comes_through_unchanged(token: str, state: str, *, ascii_only: bool) -> None:
    document = TOKEN | {"accessToken": token, "authState": state, "result": SUCCESS}
    notification = parse(json.dumps(document, ensure_ascii=ascii_only).encode())
    assert (notification.access_token, notification.auth_state) == (Secret(token), state)
